"""docs/jetson.md, word by word on a pretended JetPack 6: TensorRT 10.3, CUDA 12.6, Orin.

What a build needs and what a run needs stand in with exactly that version's names; the numbers are ONNX
Runtime's.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.hardware import devices as machine
from exporters.tensorrt import add_engine
from exporters.tensorrt.device import Gpu
from tests.dinodeploy.backends.fake_cuda import Error
from tests.dinodeploy.backends.gpu_machine import FakeDriver, pretend_gpu, pretend_tensorrt
from tests.exporters.tensorrt.fake_builder import FakeTensorRT
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")
MODEL = ["--weights", str(ROOT / "examples" / "models" / "toy_vit")]
# versions of CUDA's Python bindings that have wheels for Python 3.10 on aarch64
CUDA_PACKAGES = {
    "cuda-python": ("12.6.2.post1", "12.8.0", "12.9.0", "13.0.0"),
    "cuda-bindings": ("12.8.0", "12.9.10", "13.4.4"),
}
DRIVER_CUDA = (12, 6)


def commands() -> list[list[str]]:
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)).splitlines()
    return [shlex.split(line) for line in lines]


class Orin(FakeDriver):
    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


class JetPack6:
    """TensorRT 10.3 of the system, in its two halves, and CUDA's bindings as pip would choose them."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch = patch
        release = folder / "nv_tegra_release"
        release.write_text("# R36 (release), REVISION: 4.3\n")
        patch.setattr(machine, "TEGRA_RELEASE", release)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        pretend_gpu(patch, folder, Orin())
        patch.setattr(add_engine, "find_gpu", lambda: Gpu("Orin", "8.7", "540.4.0"))
        self.bindings: tuple[int, ...] | None = None

    def install(self, requirements: list[str]) -> None:
        """Newest versions that the requirements allow; no TensorRT of PyPI."""
        packaging = pytest.importorskip("packaging.requirements")
        for text in requirements:
            requirement = packaging.Requirement(text)
            assert not requirement.name.startswith("tensorrt"), "that is for desktops"
            assert requirement.extras == set()
            if requirement.name in CUDA_PACKAGES:
                allowed = list(requirement.specifier.filter(CUDA_PACKAGES[requirement.name]))
                assert allowed, f"pip finds no wheel for {text}"
                self.bindings = tuple(map(int, allowed[-1].split(".")[:2]))

    def to_build(self, bundle: Path) -> FakeTensorRT:
        trt = FakeTensorRT("10.3")
        shapes: list[Any] = []
        trt.answer("IOptimizationProfile.set_shape", lambda _, name, *given: shapes.append(given))

        def build(_: Any, network: Any, config: Any) -> bytes:
            profiles = [[[b, h, w] for b, _, h, w in given] for given in shapes]
            patch = json.loads((bundle / "manifest.json").read_text())["model"]["patch_size"]
            plan = {"onnx": str(bundle / "model.onnx"), "profiles": profiles, "patch": patch}
            return json.dumps(plan).encode()

        trt.answer("Builder.build_serialized_network", build)
        self._patch.setitem(sys.modules, "tensorrt", trt)
        return trt

    def to_run(self) -> None:
        module = pretend_tensorrt(self._patch, "10.3")
        module.cuda.integrated = True
        module.cuda.driver = DRIVER_CUDA[0] * 1000 + DRIVER_CUDA[1] * 10
        assert self.bindings is not None, "nothing installs CUDA's bindings"
        if self.bindings > DRIVER_CUDA:
            for name in ("cudaMalloc", "cudaDeviceGetAttribute"):
                module.cuda.fail[name, 1] = Error.cudaErrorInsufficientDriver


@pytest.fixture
def forget_the_gpu() -> Any:
    yield
    machine.find_gpu.cache_clear()


@pytest.mark.usefixtures("forget_the_gpu")
def test_the_jetson_page_word_by_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: CommandLine
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee"):
        photograph(name).resize((160, 120)).save(tmp_path / "photos" / f"{name}.jpg")
    jetson: JetPack6 | None = None
    done = []
    for program, *words in commands():
        name = Path(program).name
        if name == "pip":
            assert jetson is not None
            jetson.install(words[1:])
        if name != "dinodeploy":
            jetson = jetson or JetPack6(monkeypatch, tmp_path)  # from the first command on the device on
            continue
        if words[0] == "export":
            assert words[1:3] == ["--arch", "vit_small"]
            words[1:3] = MODEL
        elif jetson is not None and words[0] == "build":
            jetson.to_build(tmp_path / "bundle")
        elif jetson is not None:
            jetson.to_run()
        ran = run(*words)
        assert ran.code == 0, (words, ran.err)
        done.append(words[0])
    assert done == ["export", "build", "check", "embed"]
    assert (tmp_path / "embeddings" / "embeddings.json").is_file()
    build = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["engines"]["model.plan"]["build"]
    assert build["compute_capabilities"] == ["8.7"]
    assert build["profiles"] == [{"min": [1, 256, 256], "opt": [1, 256, 256], "max": [1, 256, 256]}]


def test_what_the_page_forbids_is_refused(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: CommandLine
) -> None:
    """A profile with free sizes on TensorRT 10.3; the page says how to build it nevertheless."""
    JetPack6(monkeypatch, tmp_path).to_build(tiny_bundle)
    ran = run("build", tiny_bundle, "--target", "tensorrt", "--profile", "edge")
    assert ran.code == 4
    assert "issues/4419" in ran.error
    assert "--allow-known-bad" in ran.error
    machine.find_gpu.cache_clear()
