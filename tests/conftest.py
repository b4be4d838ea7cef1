"""What every test runs under.

One thread for matrix products unless the environment says otherwise: sums are then cut up alike on every
machine, so that a measured error can be measured again, and several runs on one machine do not stall each
other. It has to be said before torch or ONNX Runtime load, which tests do on their own.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from dinodeploy.hardware.telemetry import silence_openvino
from tests.support.processes.command_line import CommandLine

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background: every child would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
silence_openvino()  # some tests import it directly
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # its handlers abort a process that forks


# What `make test-fast` does without: torch, and the packages that stand on it.
WITH_TORCH = ("torch", "exporters", "dinov3_ref")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-torch", action="store_true", help="skip every test that imports torch")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--no-torch"):
        sys.meta_path.insert(0, SkipWithTorch())


class SkipWithTorch:
    """An import hook: the test, or the module of tests, that imports torch is skipped."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in WITH_TORCH:
            pytest.skip(f"needs {name}", allow_module_level=True)
        return None


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported three-block model, the MLP kind. Shared: copy it before changing anything in it."""
    from tests.support.tiny_models import export_tiny

    return export_tiny(tmp_path_factory.mktemp("bundles") / "tiny", layers=(1,)).root


@pytest.fixture(scope="session")
def tiny_text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported dino.txt model: `tiny_dinotxt(0)` in fp32. Shared: copy it before changing anything."""
    from tests.support.text.tiny_text import export_tiny_text

    return export_tiny_text(tmp_path_factory.mktemp("bundles") / "text").root


@pytest.fixture(scope="session")
def four_maps_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four blocks, all of whose patch maps are outputs, input 64x64: what any head can stand on. Shared."""
    from dinov3_ref.checkpoints import random_checkpoint
    from tests.support.tiny_models import export_passing, tiny_config

    checkpoint = random_checkpoint(tiny_config(depth=4), 0)
    out = tmp_path_factory.mktemp("bundles") / "four_maps"
    options = {"preset": "timm", "imgsz": (64, 64), "layers": (0, 1, 2, 3)}
    return export_passing(checkpoint, out, **options).root


@pytest.fixture(scope="session")
def attentive_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with attention as an output. Shared."""
    from tests.support.tiny_models import export_tiny

    return export_tiny(tmp_path_factory.mktemp("bundles") / "attentive", attention=True).root


@pytest.fixture(scope="session")
def words_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model that was trained on texts: images and words have one space. Shared."""
    pytest.importorskip("tokenizers")
    from tests.support.text.words import export_words

    return export_words(tmp_path_factory.mktemp("bundles") / "words").root


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_bundle` to break."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """`run("embed", …)`: the command line, in this process."""
    return CommandLine(monkeypatch, capfd)
