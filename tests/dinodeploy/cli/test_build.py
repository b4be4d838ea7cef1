"""`dinodeploy build` and the engine that `export` may build: results, one-line refusals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from dinodeploy.bundle.manifest import read_manifest
from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from exporters.tensorrt import add_engine as module
from exporters.tensorrt.device import Gpu
from tests.exporters.tensorrt.fake_builder import FakeTensorRT, pretend_ada
from tests.support.processes.command_line import CommandLine
from tests.support.tiny_models import tiny_config


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return pretend_ada(monkeypatch)


def test_build_says_what_it_wrote(own_bundle: Path, fake: FakeTensorRT, run: CommandLine) -> None:
    ran = run("build", own_bundle, "--imgsz", "256:256:512", "--batch", "1:8:64")
    assert ran.code == 0, ran.err
    first, second, third = ran.out.splitlines()
    assert first.startswith(f"{own_bundle}/model.plan: ")
    assert first.endswith("bytes, tensorrt 11.4.0, for 8.9")
    assert second == "shapes (BxHxW): 1x256x256 to 64x512x512, fastest at 8x256x256"
    assert third == f"next: dinodeploy embed IMAGES --engine {own_bundle}/model.plan --out embeddings"
    notes = [line for line in ran.err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert "will not be judged" in notes[0]


def test_build_as_json_and_every_option(own_bundle: Path, fake: FakeTensorRT, run: CommandLine) -> None:
    cache = own_bundle.parent / "timings"
    ran = run(
        *(
            "build",
            own_bundle,
            "--target",
            "tensorrt",
            "--profile",
            "edge",
            "--workspace",
            "2",
            "--level",
            "1",
        ),
        *("--timing-cache", cache, "--refit", "--strip-plan", "--version-compatible", "--weight-streaming"),
        *("--hardware-compatible", "same_compute_capability", "--name", "own", "--allow-known-bad", "--json"),
    )
    assert ran.code == 0, ran.err
    assert ran.json["engine"] == "own.plan"
    assert ran.json["bytes"] == (own_bundle / "own.plan").stat().st_size
    assert (
        ran.json["build"]
        == json.loads((own_bundle / "manifest.json").read_text())["engines"]["own.plan"]["build"]
    )
    facts = ran.json["build"]
    assert all(facts[name] for name in ("refittable", "stripped", "version_compatible", "weight_streaming"))
    assert facts["hardware_compatible"] == "same_compute_capability"
    assert facts["optimization_level"] == 1
    assert facts["profiles"][0]["max"][0] == 1
    assert cache.read_bytes() == b"timings"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--imgsz", "224:518:1024"), 2, "518 is not a multiple of the patch size 16; wanted 512 or 528"),
        (("--batch", "8:4:1"), 2, "wanted smallest <= usual <= largest"),
        (("--profile", "edge", "--batch", "1"), 2, "leave out --batch and --imgsz"),
        (("--target", "cuda"), 2, "--target 'cuda' is unknown"),
        (("--level", "9"), 2, "--level is 9; wanted 0 to 5"),
        (("--name", "../x"), 2, "--name '../x'; wanted a plain file name"),
        (("--name", "model.onnx"), 0, ""),  # a plan of that name is model.onnx.plan
        (("--compute-capability", "8.9", "--target", "tensorrt"), 2, "cannot be used with --target tensorrt"),
        (("--target", "rtx", "--timing-cache", "x"), 2, "--timing-cache cannot be used with --target rtx"),
    ],
)
def test_misuse(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    own_bundle: Path,
    fake: FakeTensorRT,
    run: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", FakeTensorRT("11.4", "tensorrt_rtx"))
    before = sorted(own_bundle.iterdir())
    ran = run("build", own_bundle, *arguments)
    assert ran.code == code, ran.err
    if code:
        assert message in ran.error
        assert sorted(own_bundle.iterdir()) == before


def test_a_failed_build_ends_in_3(own_bundle: Path, fake: FakeTensorRT, run: CommandLine) -> None:
    fake.answer("Builder.build_serialized_network", lambda _, network, config: None)
    ran = run("build", own_bundle)
    assert ran.code == 3
    assert "TensorRT could not build an engine" in ran.error


def test_what_this_machine_cannot_do_ends_in_4(
    own_bundle: Path, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_gpu", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    ran = run("build", own_bundle, "--target", "rtx")
    assert ran.code == 4
    assert "pip install tensorrt-rtx" in ran.error
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("10.3"))
    ran = run("build", own_bundle, "--target", "tensorrt")
    assert ran.code == 4
    assert "this machine has no GPU" in ran.error
    monkeypatch.setattr(module, "find_gpu", lambda: Gpu("NVIDIA", "8.7", "540.4.0"))
    ran = run("build", own_bundle, "--target", "tensorrt")
    assert ran.code == 4
    assert "https://github.com/NVIDIA/TensorRT/issues/" in ran.error


def test_ctrl_c_ends_in_130(own_bundle: Path, fake: FakeTensorRT, run: CommandLine) -> None:
    fake.answer("Builder.build_serialized_network", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    before = sorted(own_bundle.iterdir())
    ran = run("build", own_bundle)
    assert (ran.code, ran.error) == (130, "error: interrupted; nothing half-written was left")
    assert sorted(own_bundle.iterdir()) == before


# ---- the engine that an export builds ------------------------------------------------------------


@pytest.fixture
def gpu(fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """`fake`, and an export finds the GPU too."""
    monkeypatch.setattr("exporters.tensorrt.target.find_gpu", lambda: Gpu("NVIDIA", "8.9", "580.65.06"))
    return fake


def test_export_builds_an_engine_where_tensorrt_and_a_gpu_are(
    gpu: FakeTensorRT, tmp_path: Path, run: CommandLine
) -> None:
    save_checkpoint(random_checkpoint(tiny_config()), "official", tmp_path / "w.safetensors")
    ran = run("export", "--weights", tmp_path / "w.safetensors", "--out", tmp_path / "b", "--json")
    assert (ran.code, ran.json["engine"]) == (0, "model.plan")
    assert "model.plan" in read_manifest(tmp_path / "b").engines


def test_options_of_engines_are_checked_before_an_export_begins(run: CommandLine, tmp_path: Path) -> None:
    for more, message in (
        (("--target", "cuda"), "--target 'cuda' is unknown"),
        (("--target", "rtx", "--no-engine"), "contradict each other"),
    ):
        ran = run("export", "--weights", "random", "--arch", "vit_small", "--out", tmp_path / "b", *more)
        assert ran.code == 2
        assert message in ran.error
        assert not (tmp_path / "b").exists()
