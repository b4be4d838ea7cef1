"""The check of a part of a graph."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from exporters.debug.judge_part import NOT_RUN, RIGHT, WRONG, main, relative_error
from exporters.debug.material import save_inputs

pytest.importorskip("polygraphy", reason="needs the extra debug")
FAULTY = "tests.exporters.debug.faulty:run"


def test_a_part_is_right_wrong_or_cannot_be_run(tiny_bundle: Path, tmp_path: Path) -> None:
    graph = str(shutil.copytree(tiny_bundle, tmp_path / "bundle") / "model.onnx")
    arguments = ["--limit", "1e-5", "--runner"]
    assert main([graph, *arguments, "onnxruntime"]) == NOT_RUN, "neither inputs nor the whole graph"
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    assert main([str(tmp_path / "no.onnx"), *arguments, "onnxruntime"]) == NOT_RUN
    erf = onnx.helper.make_node("Erf", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 4]) for name in "xy"]
    part = onnx.helper.make_model(
        onnx.helper.make_graph([erf], "part", values[:1], values[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.save(part, tmp_path / "part.onnx")
    save_inputs([{"x": np.linspace(-2, 2, 16, dtype=np.float32).reshape(4, 4)}], tmp_path / "x.json")
    arguments = ["--inputs", str(tmp_path / "x.json"), *arguments]
    assert main([str(tmp_path / "part.onnx"), *arguments, "onnxruntime"]) == RIGHT
    assert main([str(tmp_path / "part.onnx"), *arguments, FAULTY]) == WRONG


def test_what_is_not_finite_is_wrong() -> None:
    one = np.ones(3)
    assert relative_error(np.array([1.0, np.nan, 1.0]), one) == float("inf")
    assert relative_error(np.array([1.0, np.inf, 1.0]), np.array([1.0, np.inf, 1.0])) == 0.0
    assert relative_error(2 * one, one) == 1.0
