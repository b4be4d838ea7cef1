"""A device with few packages, and a standalone file for it."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from dinodeploy.bundle.signing import sign
from dinodeploy.standalone.pack import pack_standalone
from tests.dinodeploy.bundle.test_signing import make_key

# Installed on the device: these distributions and their dependencies.
DEVICE = (
    "numpy",
    "pillow",
    "onnxruntime",
    "safetensors",
    "flatbuffers",
    "protobuf",
    "packaging",
    "coloredlogs",
    "sympy",
    "mpmath",
)


@pytest.fixture(scope="package")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to the packages of the device, and no others."""
    folder = tmp_path_factory.mktemp("device")
    for name in DEVICE:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in distribution.files or () if ".." not in file.parts}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)
    return folder


@pytest.fixture(scope="package")
def application(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_standalone(tiny_bundle, tmp_path_factory.mktemp("pyz") / "model.pyz")


@pytest.fixture(scope="package")
def signed_application(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The standalone file of a signed bundle, and the public key."""
    folder = tmp_path_factory.mktemp("signed")
    private, public = make_key(folder, "key")
    bundle = Path(shutil.copytree(tiny_bundle, folder / "bundle"))
    sign(bundle, private)
    return pack_standalone(bundle, folder / "model.pyz"), public
