"""A planted fault is reduced to its node."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from exporters.debug.judge_part import WRONG
from tests.support.processes.command_line import CommandLine

pytest.importorskip("polygraphy", reason="needs the extra debug")
FAULTY = "tests.exporters.debug.faulty:run"
HERE = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


@pytest.mark.slow
def test_a_planted_fault_ends_in_a_minimal_model_and_a_report(
    tiny_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    out = tmp_path / "debug"
    ran = run("debug", tiny_bundle, "--out", out, "--runner", FAULTY, "--json")
    assert ran.code == 1, ran.err
    found = ran.json["fault"]
    assert found["operators"] == {"Erf": 1}, found
    (node,) = onnx.load(out / "reduced.onnx").graph.node
    assert node.op_type == "Erf"
    report = json.loads((out / "report.json").read_text())
    assert report["nodes"] == 1
    assert max(report["errors"].values()) > report["limit"]
    assert report["versions"]["onnxruntime"]
    _, *words = shlex.split(report["check"])
    again = subprocess.run(
        [sys.executable, *words], cwd=out, env=HERE, capture_output=True, text=True, check=False
    )
    assert again.returncode == WRONG, again.stderr
    assert again.stdout.startswith("wrong: ")
    again = run("debug", tiny_bundle, "--out", out)
    assert again.code == 2
    assert "--overwrite" in again.err
    assert run("debug", tiny_bundle, "--out", out, "--overwrite").code == 0
    assert sorted(path.name for path in out.iterdir()) == ["inputs.json", "reference.json"]
