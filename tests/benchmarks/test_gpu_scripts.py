"""`make gpu-check` and `make gpu-bench` without a GPU: skipped with the reason, and right where they can run.

The fake GPU stands in for one, so that a short time with a real one is not spent on the scripts' own faults.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dinodeploy import Embedder
from dinodeploy.bundle.manifest import read_manifest
from dinodeploy.hardware import devices as machine
from tests.dinodeploy.backends.gpu_machine import DRIVER, add_plan, pretend_gpu, pretend_tensorrt

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Importable as they are to each other when run, and gone afterwards. No GPU unless a test wants one."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(machine, "DRIVER_LIBRARY", "libnothing_of_that_name.so")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine.find_gpu.cache_clear()
    yield
    machine.find_gpu.cache_clear()
    for name in ("gpu_check", "gpu_bench", "gpu_steps", "gpu_shared", "shared"):
        sys.modules.pop(name, None)


def script(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(name)


@pytest.mark.parametrize("name", ["gpu_check", "gpu_bench"])
def test_skipped_with_the_reason(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script(name).main([])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{name.replace('_', '-')} skipped: no NVIDIA driver here")
    assert said.count("\n") == 1


def test_steps_run_in_order_each_within_its_time(tmp_path: Path) -> None:
    """One that hangs or crashes does not stop the next; what does not fit any more is recorded as not run."""
    steps = script("gpu_steps")
    ran: list[tuple[list[str], float]] = []

    def run(command: list[str], *, timeout: float, **_: Any) -> Any:
        ran.append((command, timeout))
        if len(ran) == 1:
            raise subprocess.TimeoutExpired(command, timeout)
        return SimpleNamespace(returncode=-11 if len(ran) == 2 else 0)

    options = SimpleNamespace(seconds=700.0, bundles=tmp_path)
    rows = list(steps.run_steps(steps.STEPS["check"], options, tmp_path, "NVIDIA H200", run))
    assert [row["ended"] for row in rows] == ["out of time", "failed", "done", "done", "done"]
    assert [timeout for _, timeout in ran[:4]] == [60, 150, 150, 240]
    outs = [command[command.index("--out") + 1] for command, _ in ran if "--out" in command]
    assert len(set(outs)) == len(outs) == 4, "a record of its own"
    options.seconds = 20.0
    assert {row["ended"] for row in steps.run_steps(steps.STEPS["bench"], options, tmp_path, "x", run)} == {
        "not run"
    }


def test_without_a_gpu_the_steps_are_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    for what in ("check", "bench"):
        with pytest.raises(SystemExit) as ended:
            script("gpu_steps").main([what])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"gpu-{what} skipped: no NVIDIA driver here")


def test_every_step_is_a_command_that_its_script_takes() -> None:
    known = script("gpu_shared").MODELS
    for step in (step for steps in script("gpu_steps").STEPS.values() for step in steps):
        if step.makes_record:
            words = dict(zip(step.command[1::2], step.command[2::2], strict=True))
            assert set(words.get("--models", "").split(",")) <= set(known)
            assert set(words) <= {"--models", "--recipes", "--rounds"}


@pytest.fixture
def bundles(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the bundle that the scripts would export, and a plan of it for the fake GPU."""
    folder = tmp_path / "bundles"
    root = Path(shutil.copytree(tiny_bundle, folder / "tiny_fp32"))
    pretend_gpu(monkeypatch, tmp_path)
    add_plan(root, pretend_tensorrt(monkeypatch), "tensorrt.plan")
    return folder


def without_rtx(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its build is real and takes its time; tests/exporters has it."""
    monkeypatch.setattr(check, "BACKENDS", {k: v for k, v in check.BACKENDS.items() if k != "tensorrt_rtx"})


def test_a_record_of_all_that_can_run(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = script("gpu_check")
    without_rtx(check, monkeypatch)
    monkeypatch.setattr(check, "in_a_process", check.judge_one)
    out = tmp_path / "record.json"
    options = ["--models", "tiny", "--recipes", "fp32", "--bundles", str(bundles), "--out", str(out)]
    assert check.main(options) == 0
    record = json.loads(out.read_text())
    assert record["command"] == f"benchmarks/gpu_check.py {' '.join(options)}"
    assert record["gpu"] == {"name": "NVIDIA L4", "compute_capability": "8.9", "driver": DRIVER}
    assert record["versions"]["onnxruntime"]
    assert {row["backend"]: row["status"] for row in record["rows"]} == {
        "onnxruntime": "passed",
        "onnxruntime_cuda": "skipped",
        "tensorrt": "passed",
        "torch": "skipped",
    }
    plan = next(row for row in record["rows"] if row["backend"] == "tensorrt")
    assert plan["runtime"] == "tensorrt 10.3.0"
    assert plan["worst"]["relative_frobenius"] < 1e-5
    assert "has no CUDAExecutionProvider" in next(
        r["reason"] for r in record["rows"] if "cuda" in r["backend"]
    )
    assert "4 rows, 0 failed" in capsys.readouterr().out


def test_a_wrong_engine_fails_the_check(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = script("gpu_check")
    from dinodeploy.parity import judge as parity

    without_rtx(check, monkeypatch)
    monkeypatch.setattr(check, "in_a_process", check.judge_one)
    impossible = (parity.Threshold("relative_frobenius", 0.0, 0.0),)
    monkeypatch.setitem(parity.THRESHOLDS, "fp32", impossible)
    out = tmp_path / "record.json"
    options = ["--models", "tiny", "--recipes", "fp32", "--bundles", str(bundles), "--out", str(out)]
    assert check.main(options) == 1
    rows = {row["backend"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["tensorrt"]["status"] == "failed"
    assert rows["tensorrt"]["failures"]


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (SimpleNamespace(returncode=-11, stdout="", stderr=""), "ended with -11: nothing on stderr"),
        (SimpleNamespace(returncode=1, stdout="", stderr="a\nCUDA died\n"), "ended with 1: CUDA died"),
    ],
)
def test_a_crash_is_a_row(run: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check = script("gpu_check")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: run)
    row = check.in_a_process(Path("bundle"), "tiny", "tensorrt")
    assert row == {"status": "failed", "reason": reason}


def test_one_engine_in_a_process_of_its_own(tiny_bundle: Path) -> None:
    """The real thing, as each row is made."""
    check = script("gpu_check")
    row = check.in_a_process(tiny_bundle, "tiny", "onnxruntime")
    assert row["status"] == "passed", row


def test_torch_compiles_every_shape_of_every_model_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Dynamo's own limit of 8, shared by all models, a second model would run eagerly."""
    import torch
    from torch import nn

    bench = script("gpu_bench")

    class Tokens(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.linear = nn.Linear(dim, dim)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        for model in range(3):
            bench.start_dynamo_anew(torch)
            compiled.clear()
            fast = torch.compile(Tokens(4 + model), backend=backend, dynamic=False, fullgraph=True)
            for batch in range(1, 11):
                fast(torch.zeros(batch, 4 + model))
            assert len(compiled) == 10
        torch._dynamo.config.recompile_limit = 2
        with pytest.raises(Exception, match="recompile_limit"):
            fast(torch.zeros(11, 6))
    torch._dynamo.reset()


def test_weights_of_products_are_converted_once(tiny_bundle: Path) -> None:
    import torch

    from dinov3_ref.checkpoints import build_model
    from exporters.trace.trace import TokenOutputs

    bench = script("gpu_bench")
    model = build_model(script("gpu_shared").MODELS["tiny"]()).eval()
    module = bench.low_precision(torch, TokenOutputs(model), torch.bfloat16)
    kinds = {name.rpartition(".")[2]: p.dtype for name, p in module.named_parameters() if ".attn." in name}
    assert set(kinds.values()) == {torch.bfloat16}
    assert model.blocks[0].norm1.weight.dtype == torch.float32
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        outputs = module(torch.zeros(1, 3, 32, 48))
    assert all(torch.isfinite(x).all() for x in outputs)


def test_operations_of_a_model(tiny_bundle: Path) -> None:
    """By hand: D 128, three blocks, 1 + 4 + 6 tokens of 32x48 px."""
    bench = script("gpu_bench")
    facts = read_manifest(tiny_bundle).model
    tokens = 11
    qkv_out_ffn = tokens * (3 + 1 + 4 + 4) * 128 * 128
    attention = 2 * tokens * tokens * 128
    embedding = 6 * 3 * 16 * 16 * 128
    assert bench.flops(facts, 32, 48) == 2 * (3 * (qkv_out_ffn + attention) + embedding)
    assert bench.host_bytes(facts, 32, 48) == 4 * (3 * 32 * 48 + tokens * 128)
    assert bench.weight_bytes(facts, "fp16") == 2 * 3 * 12 * 128 * 128


def test_runners_are_measured_side_by_side(tiny_bundle: Path) -> None:
    bench = script("gpu_bench")
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 48)).astype(np.float32)
    with Embedder.open(tiny_bundle, device="cpu") as embedder:
        runners = {"ours": (embedder.run, 2), "torch.compile": (lambda x: embedder.run(x), 1)}
        assert all(bench._takes(run, pixels) for run, _ in runners.values())
        rows = list(bench.bench_shape(runners, embedder.run, pixels, 3, embedder.manifest.model, 1e6))
    assert [row["runner"] for row in rows] == ["ours", "torch.compile"]
    assert "images_per_second_all_streams" in rows[0], "beside one stream against one stream"
    assert "images_per_second_all_streams" not in rows[1]
    peak = {"fp32_tflop_per_second": 50.0, "copy_gb_per_second": 1000.0}
    for row in rows:
        full = bench.add_shares({"model": "tiny", "recipe": "fp32", **row}, peak)
        assert full["relative_frobenius_cls"] == 0
        assert 0 < full["median_ms"] <= full["p95_ms"]
        assert full["share_of_matrix_peak"] == pytest.approx(full["tflop_per_second"] / 50)
        assert bench.line(full).startswith("tiny       fp32  ")
        json.dumps(full, allow_nan=False)
