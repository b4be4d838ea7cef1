"""A plan for another runtime, GPU or driver is refused in one line with the command that fixes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinodeploy.backends.tensorrt.refuse import check_build, install_command, numbers, rebuild_command
from dinodeploy.bundle.manifest import BuildFacts
from dinodeploy.errors import UnavailableError
from dinodeploy.hardware import devices as machine
from dinodeploy.hardware.devices import Gpu

PLAN = Path("bundle/model.plan")


def facts(**changes: Any) -> BuildFacts:
    values: dict[str, Any] = {
        "runtime": "tensorrt 10.3.0",
        "source": "model.onnx",
        "source_sha256": "0" * 64,
        "profiles": (),
        "compute_capabilities": ("8.9",),
        "driver": "570.86.15",
        "version_compatible": False,
        "hardware_compatible": "none",
        "refittable": False,
        "stripped": False,
        "weight_streaming": False,
        "optimization_level": None,
    }
    return BuildFacts(**{**values, **changes})


def gpu(capability: str = "8.9", driver: str = "570.86.15") -> Gpu:
    return Gpu("NVIDIA L4", capability, driver)


# changes of the facts, TensorRT's version here, the GPU here
FITS: dict[str, tuple[dict[str, Any], str, Gpu]] = {
    "the same": ({}, "10.3.0", gpu()),
    "newer driver": ({}, "10.3.0", gpu(driver="580.1")),
    "version-compatible": ({"version_compatible": True}, "10.16.1", gpu()),
    "one of several": ({"compute_capabilities": ("8.6", "8.9", "12.0")}, "10.3.0", gpu("12.0")),
    "ampere and later": ({"hardware_compatible": "ampere_plus"}, "10.3.0", gpu("12.0")),
    "built without a GPU": ({"driver": None}, "10.3.0", gpu(driver="470.1")),
    "drivers named otherwise": ({"driver": "CUDA 13.0"}, "10.3.0", gpu()),
}
DOES_NOT: dict[str, tuple[dict[str, Any], str, Gpu, str]] = {
    "older TensorRT": ({}, "10.2.0", gpu(), "was built by tensorrt 10.3.0, here is tensorrt 10.2.0"),
    "last digit": ({}, "10.3.0.26", gpu(), "was built by tensorrt 10.3.0, here is tensorrt 10.3.0.26"),
    "other module": (
        {"runtime": "tensorrt_rtx 1.7.1.116", "version_compatible": True},
        "10.3.0",
        gpu(),
        "was built by tensorrt_rtx 1.7.1.116, here is tensorrt 10.3.0",
    ),
    "compatible, but older here": (
        {"version_compatible": True},
        "10.2.1",
        gpu(),
        "was built by tensorrt 10.3.0 for it and later ones of its major version, here is 10.2.1",
    ),
    "compatible, other major": ({"version_compatible": True}, "11.4.0", gpu(), "here is 11.4.0"),
    "other GPU": ({}, "10.3.0", gpu("9.0"), "was built for compute capability 8.9, NVIDIA L4 has 9.0"),
    "same capability only": (
        {"hardware_compatible": "same_compute_capability"},
        "10.3.0",
        gpu("8.6"),
        "compute capability 8.9, NVIDIA L4 has 8.6",
    ),
    "before ampere": (
        {"hardware_compatible": "ampere_plus"},
        "10.3.0",
        gpu("7.5"),
        "was built for compute capability 8.0 and newer, NVIDIA L4 has 7.5",
    ),
    "older driver": (
        {},
        "10.3.0",
        gpu(driver="570.9.99"),
        "was built with driver 570.86.15, here is the older 570.9.99: update the driver",
    ),
    "older CUDA": ({"driver": "CUDA 13.0"}, "10.3.0", gpu(driver="CUDA 12.8"), "here is the older CUDA 12.8"),
}


@pytest.mark.parametrize("noted", [(), ("8.6", "8.9", "12.0")])
def test_rtx_plans_and_gpus_without_kernels(noted: tuple[str, ...]) -> None:
    """Plans of older versions noted nothing; the builder's default was the same."""
    build = facts(runtime="tensorrt_rtx 1.7.1", compute_capabilities=noted)
    for fits in ("8.6", "8.9", "12.0"):
        check_build(build, "tensorrt_rtx", "1.7.1", gpu(fits), PLAN)
    with pytest.raises(UnavailableError, match=r"12\.0, NVIDIA L4 has 7\.5; build it here: .*--target rtx"):
        check_build(build, "tensorrt_rtx", "1.7.1", gpu("7.5"), PLAN)
    for capability in ("8.0", "8.7", "9.0", "10.0", "11.0"):
        with pytest.raises(UnavailableError, match=r"build it here: .*--target tensorrt --overwrite"):
            check_build(build, "tensorrt_rtx", "1.7.1", gpu(capability), PLAN)


@pytest.mark.parametrize("jetson", [True, False])
def test_what_to_install_for_plans(jetson: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = tmp_path / "nv_tegra_release"
    if jetson:
        release.write_text("# R36 (release), REVISION: 4.0")
    monkeypatch.setattr(machine, "TEGRA_RELEASE", release)
    assert ("pip install" in install_command("tensorrt")) != jetson
    assert ("python3-libnvinfer" in install_command("tensorrt")) == jetson


@pytest.mark.parametrize("case", FITS)
def test_what_fits(case: str) -> None:
    changes, version, here = FITS[case]
    check_build(facts(**changes), "tensorrt", version, here, PLAN)


@pytest.mark.parametrize("case", DOES_NOT)
def test_what_does_not(case: str) -> None:
    changes, version, here, reason = DOES_NOT[case]
    with pytest.raises(UnavailableError) as caught:
        check_build(facts(**changes), "tensorrt", version, here, PLAN)
    message = str(caught.value)
    assert message.startswith("model.plan was built ")
    assert reason in message
    assert message.endswith("; build it here: dinodeploy build bundle --target tensorrt --overwrite")
    assert caught.value.exit_code == 4


def test_the_command_names_the_plan() -> None:
    command = rebuild_command(Path("b/edge.plan"), "tensorrt_rtx", " --batch 1:1:1")
    assert command == "dinodeploy build b --target rtx --name edge --batch 1:1:1 --overwrite"
    assert rebuild_command(Path("b/fast.cls.plan"), "tensorrt") == (
        "dinodeploy build b --target tensorrt --name fast --cls-only --overwrite"
    )


def test_versions_are_numbers() -> None:
    assert numbers("10.16.1.post2") > numbers("10.3.0")
    assert numbers("570.86.15") > numbers("570.9.99")
