"""`--device` and plans from the command line, end to end: images through the fake GPU into a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import load_embeddings
from dinodeploy.bundle.manifest import ProfileFacts
from tests.dinodeploy.backends.fake_tensorrt import FakeTensorRT
from tests.dinodeploy.backends.gpu_machine import DEVICE, add_plan, no_gpu, pretend_gpu, pretend_tensorrt
from tests.support.images.photographs import photograph
from tests.support.processes.command_line import CommandLine


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with no_gpu(monkeypatch, tmp_path):
        yield


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    pretend_gpu(monkeypatch, tmp_path)
    return pretend_tensorrt(monkeypatch, "11.4")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("chelsea", "rocket", "coffee"):
        photograph(name).save(folder / f"{name}.jpg")
    return folder


def test_embed_with_a_plan(
    own_bundle: Path, module: FakeTensorRT, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    """Judged on first use, then three off-square images in batches of two, as on the CPU."""
    plan = add_plan(own_bundle, module)
    options = ("--batch", 2, "--imgsz", "96,160")
    on_gpu = run("embed", photos, "--engine", plan.path, "--out", tmp_path / "gpu", *options)
    assert on_gpu.code == 0, on_gpu.err
    assert on_gpu.err.splitlines() == [f"[auto] model.plan on {DEVICE}, tensorrt 11.4.0"]
    cpu = ("--device", "cpu", "--out", tmp_path / "cpu")
    on_cpu = run("embed", photos, "--engine", own_bundle, *cpu, *options)
    assert on_cpu.err.startswith("[cpu] model.cpu.cls.onnx on cpu: ")
    (ids, vectors), (same, right) = load_embeddings(tmp_path / "gpu"), load_embeddings(tmp_path / "cpu")
    assert ids == same
    np.testing.assert_allclose(vectors, right, rtol=1e-4, atol=1e-5)
    assert module.cuda.leaked == {}
    assert module.alive == 0


def test_check_judges_the_plan(own_bundle: Path, module: FakeTensorRT, run: CommandLine) -> None:
    add_plan(own_bundle, module)
    ran = run("check", own_bundle, "--device", "tensorrt", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["engine"], ran.json["runtime"], ran.json["device"]) == (
        "model.plan",
        "tensorrt 11.4.0",
        DEVICE,
    )
    assert ran.json["passed"]


# what is wrong with the plan -> the exit code and what the one line says
REFUSED = {
    "version": ({"runtime": "tensorrt 10.3.0"}, 4, "was built by tensorrt 10.3.0, here is tensorrt 11.4.0"),
    "gpu": ({"compute_capabilities": ("9.0",)}, 4, "compute capability 9.0, NVIDIA L4 has 8.9"),
    "driver": ({"driver": "999.1"}, 4, "was built with driver 999.1, here is the older 570.86.15"),
    "source": ({"source_sha256": "0" * 64}, 2, "was built from another model.onnx"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_foreign_plan_is_one_line_and_a_command(
    case: str, own_bundle: Path, module: FakeTensorRT, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    changes, code, message = REFUSED[case]
    plan = add_plan(own_bundle, module, **changes)
    ran = run("embed", photos, "--engine", plan.path, "--out", tmp_path / "o")
    assert ran.code == code
    assert message in ran.error
    assert f"dinodeploy build {own_bundle}" in ran.error
    assert not (tmp_path / "o").exists()


def test_a_picture_outside_every_profile(
    own_bundle: Path, module: FakeTensorRT, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    plan = add_plan(own_bundle, module)
    ran = run("embed", photos, "--engine", plan.path, "--out", tmp_path / "o", "--imgsz", "640,320")
    assert ran.code == 2
    assert "input of 640x320 px is outside what model.plan was built for, batch 1 to 4" in ran.error
    assert "--imgsz 32x32:256x256:640x320 --overwrite" in ran.error
    assert module.cuda.leaked == {}


def test_an_engine_for_one_picture_takes_batches(
    own_bundle: Path, module: FakeTensorRT, photos: Path, tmp_path: Path, run: CommandLine
) -> None:
    plan = add_plan(own_bundle, module, profiles=(ProfileFacts((1, 112, 112), (1, 256, 256), (1, 256, 256)),))
    ran = run("embed", photos, "--engine", plan.path, "--out", tmp_path / "o", "--batch", 8)
    assert ran.code == 0, ran.err
    assert len(load_embeddings(tmp_path / "o")[0]) == 3


@pytest.mark.parametrize(
    ("device", "words"), [("cuda", "no NVIDIA driver here"), ("tensorrt", "build one: dinodeploy build")]
)
def test_a_device_that_is_not_there(device: str, words: str, tiny_bundle: Path, run: CommandLine) -> None:
    ran = run("check", tiny_bundle, "--device", device)
    assert ran.code == 4
    assert words in ran.error


def test_misuse(tiny_bundle: Path, run: CommandLine) -> None:
    ran = run("check", tiny_bundle, "--device", "tpu")
    assert (ran.code, ran.out) == (2, "")
    assert (
        "--device 'tpu' is unknown; wanted one of auto, cpu, onnxruntime, openvino, cuda, tensorrt"
        in ran.error
    )
    assert "--weight-budget is -1.0" in run("check", tiny_bundle, "--weight-budget", -1).error


def test_weights_that_stream(own_bundle: Path, module: FakeTensorRT, run: CommandLine) -> None:
    add_plan(own_bundle, module, weight_streaming=True)
    assert run("check", own_bundle, "--weight-budget", 0.25e-6).code == 0
    assert module.called("weight_streaming_budget_v2")[-1] == 268  # of GiB, in bytes
