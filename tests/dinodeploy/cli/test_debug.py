"""`dinodeploy debug` on a right engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes.command_line import CommandLine

pytest.importorskip("polygraphy", reason="needs the extra debug")


def test_a_right_runtime_is_not_reduced(tiny_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    out = tmp_path / "debug"
    ran = run("debug", tiny_bundle, "--out", out, "--runner", "onnxruntime")
    assert ran.code == 0, ran.err
    assert ran.out.count("polygraphy run ") == 2
    assert "onnxruntime agrees with ONNX Runtime without optimisations within" in ran.out
    assert sorted(path.name for path in out.iterdir()) == ["inputs.json", "reference.json"]


@pytest.mark.parametrize(
    ("runner", "code", "words"),
    [
        ("nonsense", 2, "wanted tensorrt, onnxruntime or module:function"),
        ("os:nothing", 2, "has no attribute 'nothing'"),
        ("os:listdir", 4, "os:listdir cannot run model.onnx"),
    ],
)
def test_a_runner_that_is_not_there_is_one_line(
    tiny_bundle: Path, tmp_path: Path, run: CommandLine, runner: str, code: int, words: str
) -> None:
    ran = run("debug", tiny_bundle, "--out", tmp_path / "debug", "--runner", runner)
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert words in ran.error
