"""A runtime with a planted fault: it takes tanh for erf. Otherwise it is ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from exporters.debug.judge_part import run_onnxruntime


def run(graph: str, feeds: Mapping[str, Any]) -> dict[str, Any]:
    model = onnx.load(graph)
    for node in model.graph.node:
        if node.op_type == "Erf":
            node.op_type = "Tanh"
    with TemporaryDirectory() as folder:
        changed = Path(folder) / "changed.onnx"
        onnx.save(model, changed)
        return run_onnxruntime(str(changed), feeds)
