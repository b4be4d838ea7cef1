"""Write a precision recipe into a graph, in one of four styles.

typed     8-bit layers as QuantizeLinear/DequantizeLinear, 16-bit operators in their type: for GPUs
emulated  the same roundings around fp32 operators: CPU proxy graph for the judge (see `low_precision.py`)
cpu       fp32, with fused attention and 8-bit layers as operators of ONNX Runtime: the fastest graph on CPUs
vnni      the same with 8-bit layers for CPUs with VNNI (`quantization/write.py`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import onnx_ir as ir

from dinodeploy.errors import MisuseError
from exporters.graph.fuse_attention import MICROSOFT, fuse_attention
from exporters.graph.merge_products import merge_products
from exporters.precision.calibrate import LinearRange
from exporters.precision.low_precision import LowPrecisionConverter, merge_casts
from exporters.precision.quantization import write as quantized
from exporters.precision.quantization.scheme import QuantScheme
from exporters.precision.recipes import (
    FP32,
    RESIDUAL,
    ROOT,
    TYPED_ONLY,
    Override,
    Recipe,
    is_head_product,
    path_of,
    role_of,
    shifts,
    type_of,
)

Style = Literal["typed", "emulated", "cpu", "vnni"]
ONNXRUNTIME: tuple[Style, ...] = ("cpu", "vnni")  # with operators that only its CPU has
FORMS: dict[Style, quantized.GraphForm] = {"cpu": "per_token", "vnni": "vnni"}


@dataclass(frozen=True)
class RecipeInputs:
    """What a recipe needs besides the graph: ranges by layer path, the 8-bit scheme if any, the overrides.

    backbones: module paths of the backbones in a whole model's graph (`role_of`). head_type: the type of the
    products outside them. for_gpus: whether CPUs have a graph
    beside the typed one.
    """

    ranges: Mapping[str, LinearRange] = field(default_factory=dict)
    scheme: QuantScheme | None = None
    overrides: Sequence[Override] = ()
    backbones: Sequence[str] = ROOT
    head_type: ir.DataType = FP32
    for_gpus: bool = True


def apply_recipe(model: ir.Model, recipe: Recipe, style: Style, inputs: RecipeInputs) -> None:
    """Write `recipe` into `model`, in place. Raises MisuseError for an override that matches no layer."""
    _refuse_unmatched(model.graph, recipe, inputs)
    converter = LowPrecisionConverter(model.graph, "typed" if style == "typed" else "emulated")
    schemes = inputs.scheme.by_linear() if inputs.scheme else {}
    quantizer: quantized.Quantizer | None = None
    if inputs.scheme:
        form = FORMS.get(style, "qdq")
        quantizer = quantized.Quantizer(model.graph, form, inputs.scheme.format, converter)
    roles = {node: role_of(node, inputs.backbones) for node in model.graph}
    if RESIDUAL in recipe.roles and RESIDUAL not in roles.values():
        raise MisuseError(
            f"--precision {recipe.name} is for transformer blocks, and this model has none; use bf16"
        )
    for node, role in [(node, role) for node, role in roles.items() if role in recipe.roles]:
        path = path_of(node)
        if quantizer is not None and path in schemes:
            quantizer.quantize(node, schemes[path])
        elif style == "typed" or (style == "emulated" and role not in TYPED_ONLY):
            dtype = type_of(path, str(role), recipe, inputs.overrides)
            if dtype != ir.DataType.FLOAT:
                fit = shifts(inputs.ranges[path], dtype) if path in inputs.ranges else (0, 0)
                converter.convert(node, dtype, *fit, stored=role not in TYPED_ONLY)
    if style not in ONNXRUNTIME and inputs.head_type != FP32:
        for node in [node for node in model.graph if is_head_product(node, inputs.backbones)]:
            seen = inputs.ranges.get(path_of(node))
            converter.convert(node, inputs.head_type, *(shifts(seen, inputs.head_type) if seen else (0, 0)))
    merge_casts(model.graph)
    if style == "typed" and inputs.for_gpus:
        merge_products(model.graph)
    if style in ONNXRUNTIME:
        fuse_attention(model)
    if schemes:  # 8-bit operators need a newer opset, or the domain of ONNX Runtime's own
        model.opset_imports[""] = max(model.opset_imports[""], quantized.OPSET)
        model.ir_version = max(model.ir_version or 0, quantized.IR_VERSION)
        if style in ONNXRUNTIME:
            model.opset_imports[MICROSOFT] = 1


def _refuse_unmatched(graph: ir.Graph, recipe: Recipe, inputs: RecipeInputs) -> None:
    """An override that matches no layer is a typo. Raises MisuseError."""
    no_layer = (None,) if RESIDUAL in recipe.roles else (None, RESIDUAL)
    paths = {path_of(node) for node in graph if role_of(node, inputs.backbones) not in no_layer}
    for pattern, name in inputs.overrides:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise MisuseError(
                f"--override '{pattern}={name}' matches no layer; layers are {', '.join(sorted(paths)[:6])} …"
            )
