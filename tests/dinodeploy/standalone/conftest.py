"""A device with few packages, and a standalone file for it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from dinodeploy.standalone.pack import pack_standalone

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
