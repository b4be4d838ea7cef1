"""Write a precision recipe into a graph, in one of three styles.

typed     8-bit layers as QuantizeLinear/DequantizeLinear, 16-bit operators as such: TensorRT, CUDA
emulated  the same roundings around fp32 operators: what a CPU judges (`narrow.py` says why)
cpu       fp32 with attention, and 8-bit layers, in the dialect of ONNX Runtime's CPU: what runs fast there
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import onnx_ir as ir

from dinodeploy.errors import MisuseError
from exporters.graph.fuse_attention import MICROSOFT, fuse_attention
from exporters.precision.calibrate import LinearRange
from exporters.precision.low_precision import Narrower, merge_casts
from exporters.precision.quantization import QuantPlan
from exporters.precision.quantization import write as quantized
from exporters.precision.recipes import Override, Recipe, path_of, role_of, shifts, type_of

Style = Literal["typed", "emulated", "cpu"]


@dataclass(frozen=True)
class Facts:
    """What a recipe must know of the model: ranges by linear layer's path, and a plan where it has 8 bits."""

    ranges: Mapping[str, LinearRange] = field(default_factory=dict)
    plan: QuantPlan | None = None
    overrides: Sequence[Override] = ()


def apply_recipe(model: ir.Model, recipe: Recipe, style: Style, facts: Facts) -> None:
    """Write `recipe` into `model`, in place."""
    _refuse_unmatched(model.graph, facts.overrides)
    narrower = Narrower(model.graph, "typed" if style == "typed" else "emulated")
    plans = facts.plan.by_linear() if facts.plan else {}
    dialect: quantized.Dialect = "rows" if style == "cpu" else "qdq"
    quantizer = quantized.Quantizer(model.graph, dialect, facts.plan.format) if facts.plan else None
    for node in [node for node in model.graph if role_of(node) in recipe.roles]:
        path, role = path_of(node), str(role_of(node))
        if quantizer is not None and path in plans:
            quantizer.quantize(node, plans[path])
        elif style != "cpu":
            dtype = type_of(path, role, recipe, facts.overrides)
            if dtype != ir.DataType.FLOAT:
                fit = shifts(facts.ranges[path], dtype) if path in facts.ranges else (0, 0)
                narrower.narrow(node, dtype, *fit)
    merge_casts(model.graph)
    if style == "cpu":
        fuse_attention(model)
    if plans:
        _declare_types(model, style)


def _refuse_unmatched(graph: ir.Graph, overrides: Sequence[Override]) -> None:
    """A pattern that names nothing is a typo. Raises MisuseError."""
    paths = {path_of(node) for node in graph if role_of(node) is not None}
    for pattern, name in overrides:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise MisuseError(
                f"--override '{pattern}={name}' names no layer; they are {', '.join(sorted(paths)[:6])} …"
            )


def _declare_types(model: ir.Model, style: Style) -> None:
    """8-bit operators need a later opset, and ONNX Runtime's own a domain."""
    model.opset_imports[""] = max(model.opset_imports[""], quantized.OPSET)
    model.ir_version = max(model.ir_version or 0, quantized.IR_VERSION)
    if style == "cpu":
        model.opset_imports[MICROSOFT] = 1
