"""What an export judges: each graph on ONNX Runtime, and what `--device auto` runs on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dinodeploy.backends import select
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.parity import judge
from dinodeploy.parity.receipts import read_receipts
from exporters.bundle.stage import judge_staged


def staged(bundle: Path) -> Path:
    (bundle / "parity.json").unlink()
    return bundle


def judged(bundle: Path) -> set[tuple[str, str]]:
    receipts = read_receipts(open_bundle(bundle))
    return {(one.engine, one.runtime.partition(" ")[0]) for one in receipts if one.passed}


ON_ONNXRUNTIME = {(name, "onnxruntime") for name in ("model.cpu.onnx", "model.onnx", "model.cpu.cls.onnx")}


def test_every_graph_on_onnxruntime(own_bundle: Path) -> None:
    manifest = open_bundle(staged(own_bundle)).manifest
    receipt, notes = judge_staged(own_bundle, manifest, lambda _: None)
    assert (receipt.engine, notes) == ("model.cpu.onnx", ())
    assert judged(own_bundle) == ON_ONNXRUNTIME


@pytest.fixture
def auto_takes_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a recipe and a CPU with bf16 instructions."""
    pytest.importorskip("openvino", reason="openvino is not installed (extra `openvino`)")
    monkeypatch.setitem(select.OPENVINO_PAYS, "fp32", ("avx2",))
    monkeypatch.setattr(select, "cpu_flags", lambda: ("avx2",))


def test_what_auto_runs_here_is_judged_and_said(own_bundle: Path, auto_takes_openvino: None) -> None:
    manifest = open_bundle(staged(own_bundle)).manifest
    receipt, notes = judge_staged(own_bundle, manifest, lambda _: None)
    assert receipt.runtime.startswith("openvino")
    assert [note.partition(" on openvino")[0] for note in notes] == [
        "--device auto runs model.onnx",
        "--device auto runs model.cls.onnx",
    ]
    openvino = {(name, "openvino") for name in ("model.onnx", "model.cls.onnx")}
    assert judged(own_bundle) == ON_ONNXRUNTIME | openvino


def test_if_only_that_fails_the_note_says_what_to_use(
    own_bundle: Path, auto_takes_openvino: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = open_bundle(staged(own_bundle)).manifest
    as_is = judge.judge_golden

    def judge_golden(cases, run, manifest):  # type: ignore[no-untyped-def]
        verdict = as_is(cases, run, manifest)
        if "compiled_for" in dir(run.func.__self__.backend):  # OpenVINO's
            wrong = tuple(replace(one, passed=False, note="planted") for one in verdict.measurements)
            return replace(verdict, measurements=wrong)
        return verdict

    monkeypatch.setattr(judge, "judge_golden", judge_golden)
    receipt, notes = judge_staged(own_bundle, manifest, lambda _: None)
    assert receipt.runtime.startswith("onnxruntime")
    assert all("failed the judge" in note and "use --device onnxruntime" in note for note in notes)
    assert judged(own_bundle) == ON_ONNXRUNTIME
