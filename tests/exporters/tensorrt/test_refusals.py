"""What is refused before anything is built: options and targets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.errors import MisuseError, UnavailableError
from exporters.tensorrt.device import Gpu
from exporters.tensorrt.options import BuildOptions, check_options, known_compute_capabilities
from exporters.tensorrt.target import TARGETS, load_target
from tests.exporters.tensorrt.fake_builder import FakeTensorRT

GPU = Gpu("NVIDIA", "8.9", "580.65.06")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set or remove modules: `modules(tensorrt=fake, tensorrt_rtx=None)`."""

    def set_modules(**named: Any) -> None:
        for name, module in named.items():
            monkeypatch.setitem(sys.modules, name, module)

    return set_modules


# ---- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workspace": 0.0}, "--workspace is 0.0; wanted GiB above 0"),
        ({"workspace": float("nan")}, "--workspace is nan"),
        ({"level": 6}, "--level is 6; wanted 0 to 5"),
        ({"hardware_compatible": "all"}, "known: none, ampere_plus, same_compute_capability"),
        ({"compute_capabilities": ("sm89",)}, "--compute-capability 'sm89'; wanted for instance 8.9"),
        ({"compute_capabilities": ("8.9", "8.9")}, "wanted each once"),
        ({"compute_capabilities": ("8.9", "current")}, "current alone"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError, match=message.replace(".", r"\.")):
        BuildOptions(**options)


# target, version of the fake, options, what is said
LACKING: tuple[tuple[str, str, dict[str, Any], type[Exception], str], ...] = (
    ("rtx", "11.4", {"timing_cache": Path("x")}, MisuseError, "--timing-cache cannot be used with"),
    (
        "rtx",
        "11.4",
        {"hardware_compatible": "ampere_plus"},
        MisuseError,
        "--hardware-compatible cannot be used",
    ),
    ("rtx", "11.4", {"version_compatible": True}, MisuseError, "--version-compatible cannot be used"),
    ("rtx", "11.4", {"refit": True}, UnavailableError, "--refit with --target rtx needs an NVIDIA"),
    ("rtx", "11.4", {"strip_plan": True}, UnavailableError, "--strip-plan with --target rtx needs"),
    ("rtx", "11.4", {"compute_capabilities": ("current",)}, UnavailableError, "no GPU found"),
    ("rtx", "11.4", {"compute_capabilities": ("8.9",)}, UnavailableError, "is not supported"),
    ("tensorrt", "10.3", {"compute_capabilities": ("8.9",)}, MisuseError, "builds for this machine"),
    (
        "tensorrt",
        "10.3",
        {"hardware_compatible": "same_compute_capability"},
        UnavailableError,
        "a later version",
    ),
)


@pytest.mark.parametrize(("target", "version", "options", "error", "message"), LACKING)
def test_options_that_a_target_lacks(
    target: str, version: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        check_options(BuildOptions(**options), TARGETS[target], FakeTensorRT(version), None)
    assert message in str(caught.value)


def test_options_that_a_target_has() -> None:
    hardware = BuildOptions(hardware_compatible="same_compute_capability", timing_cache=Path("x"), refit=True)
    check_options(hardware, TARGETS["tensorrt"], FakeTensorRT("11.4"), GPU)
    check_options(BuildOptions(refit=True, strip_plan=True), TARGETS["rtx"], FakeTensorRT("11.4"), GPU)


def test_compute_capabilities_of_the_real_rtx() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="published for Linux on x86-64 only")
    known = known_compute_capabilities(rtx)
    assert known["8.9"] == "SM89"
    assert known["12.0"] == "SM120"
    with pytest.raises(UnavailableError, match=r"9\.0 is not supported here; known: 7\.5, 8\.0"):
        check_options(BuildOptions(compute_capabilities=("9.0",)), TARGETS["rtx"], rtx, None)


# ---- targets -----------------------------------------------------------------------------------


def test_auto_takes_tensorrt_where_there_is_a_gpu_and_rtx_elsewhere(modules: Any) -> None:
    tensorrt, rtx = FakeTensorRT("10.3"), FakeTensorRT("11.4", "tensorrt_rtx")
    modules(tensorrt=tensorrt, tensorrt_rtx=rtx)
    assert load_target("auto", GPU)[1] is tensorrt
    assert load_target("auto", None)[1] is rtx


HOPPER = Gpu("NVIDIA H200", "9.0", "580.65.06")


def test_auto_never_builds_with_rtx_for_a_gpu_that_it_has_no_kernels_for(
    modules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx = FakeTensorRT("11.4", "tensorrt_rtx")
    modules(tensorrt_rtx=rtx)
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorrt" else found(name))
    assert load_target("auto", GPU)[1] is rtx
    for capability in ("8.0", "8.7", "9.0", "10.0", "11.0"):
        with pytest.raises(UnavailableError, match=f"no kernels for NVIDIA .compute capability {capability}"):
            load_target("auto", Gpu("NVIDIA", capability, "580.65.06"))


def test_rtx_for_this_gpu_where_it_has_no_kernels() -> None:
    options = BuildOptions(compute_capabilities=("current",))
    with pytest.raises(UnavailableError, match=r"no kernels for NVIDIA H200 .*use --target tensorrt"):
        check_options(options, TARGETS["rtx"], FakeTensorRT("11.4"), HOPPER)


def test_what_is_missing_or_too_old_says_how_to_fix_it(modules: Any) -> None:
    with pytest.raises(MisuseError, match="--target 'cuda' is unknown; known: auto, tensorrt, rtx"):
        load_target("cuda", GPU)
    modules(tensorrt=None)
    with pytest.raises(UnavailableError, match="needs tensorrt, which is not installed: pip install"):
        load_target("tensorrt", GPU)
    modules(tensorrt=FakeTensorRT("10.3"))
    with pytest.raises(UnavailableError, match="this machine has no GPU"):
        load_target("tensorrt", None)
    old = FakeTensorRT("10.3")
    old.__version__ = "8.6.1"
    modules(tensorrt=old)
    with pytest.raises(UnavailableError, match=r"tensorrt is 8\.6\.1; wanted 10\.3 or later"):
        load_target("tensorrt", GPU)


def test_no_tensorrt_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="pip install tensorrt-rtx"):
        load_target("auto", GPU)


@pytest.mark.parametrize("failure", ["ImportError('libnvinfer.so.10: no such file')", "OSError('libcuda')"])
def test_libraries_that_do_not_load(failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bindings are on the registry, the libraries elsewhere: importing ends in whatever it likes."""
    (tmp_path / "tensorrt.py").write_text(f"raise {failure}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(UnavailableError) as caught:
        load_target("tensorrt", GPU)
    assert "cannot be imported (lib" in str(caught.value)
