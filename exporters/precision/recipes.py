"""Precision recipes: which kind of operator runs in which type.

TensorRT 11 has no precision flags: it runs the types that the ONNX graph states. So a recipe is a literal
table, and everything that it does not name stays fp32: the residual stream, LayerNorm, LayerScale, biases,
GELU, RoPE's table and rotation, a ConvNeXt's stem. The reason: the residual stream reaches 155,000 in
ViT-L and 87,000 in ViT-H+ (docs/precision.md), and fp16 ends at 65,504. bf16 has the range, and a recipe of
its own for that stream.

The output of an fp16 product must fit too. A linear layer or convolution whose input or output came near the
limit on the golden photographs is scaled by powers of two, which is exact: its input by 2^-i, its weights by
2^-w, and the result, back in fp32, by 2^(i+w).

`apply_recipe.py` writes a recipe into a graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from exporters.precision.calibrate import LinearRange

FP32, FP16, BF16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
INT8, FP8 = ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN

# type -> (largest finite value, headroom: by which factor a value may exceed what the golden photographs
# showed). 16, because the golden photographs are few and fp16 has four bits of range to spare.
LIMITS: dict[ir.DataType, tuple[float, float]] = {FP16: (65504.0, 16.0)}


@dataclass(frozen=True)
class Recipe:
    """Role of an operator -> its type. Roles that are missing run in fp32."""

    name: str
    roles: Mapping[str, ir.DataType]
    fallback: ir.DataType = FP32  # type of the linear layers that stay out of 8 bits

    @property
    def quantized(self) -> str | None:
        """int8 or fp8 if linear layers run in 8 bits, else None."""
        return {INT8: "int8", FP8: "fp8"}.get(self.roles.get("qkv", FP32))


LINEAR = ("qkv", "out", "ffn_in", "ffn_out")
ATTENTION = ("scores", "softmax", "values")
# ConvNeXt only. fp16 in the 8-bit recipes too: a depthwise kernel sums only 49 products per channel, and both
# kinds together are 6 % of the work. fp32 under bf16: ONNX has no bf16 Conv before opset 22, which TensorRT
# 10.3 cannot parse.
CONVOLUTION = ("depthwise", "downsample")
SIXTEEN = ATTENTION + CONVOLUTION
# The convolution over patches, in typed graphs alone: CPUs compute it in fp32 in any case. fp16 under bf16
# too, as above; an image's values and the weights are far inside its range. Without it TensorRT, to which
# TF32 is forbidden, has no tensor cores for it.
PATCHES = {"patches": FP16}
TYPED_ONLY = tuple(PATCHES)
# The sum after each half of a block, computed and stored in the type.
RESIDUAL = "residual"

RECIPES: dict[str, Recipe] = {
    "fp32": Recipe("fp32", {}),
    "fp16": Recipe("fp16", dict.fromkeys(LINEAR + SIXTEEN, FP16) | PATCHES),
    "bf16": Recipe("bf16", dict.fromkeys(LINEAR + ATTENTION, BF16) | PATCHES),
    "bf16-residual": Recipe("bf16-residual", dict.fromkeys((*LINEAR, *ATTENTION, RESIDUAL), BF16) | PATCHES),
    "int8": Recipe("int8", dict.fromkeys(LINEAR, INT8) | dict.fromkeys(SIXTEEN, FP16) | PATCHES, FP16),
    "fp8": Recipe("fp8", dict.fromkeys(LINEAR, FP8) | dict.fromkeys(SIXTEEN, FP16) | PATCHES, FP16),
}
Override = tuple[str, str]  # (layer path pattern, type): ("blocks.0.*", "fp32")
TYPES: dict[str, ir.DataType] = {"fp32": FP32, "fp16": FP16, "bf16": BF16}  # types that an override may name

# (operator, module path) -> role. The path is the part of a node's name before the operator.
_BLOCK = r"(?:text_head\.|backbone\.)?blocks\.\d+"  # dino.txt: of the vision head, of the text tower
_ROLES: tuple[tuple[str, str, str], ...] = (
    ("MatMul", rf"{_BLOCK}\.(attn|attention)\.([qkv]|kv|qkv)", "qkv"),
    ("MatMul", rf"{_BLOCK}\.(attn|attention)\.proj", "out"),
    ("MatMul", rf"{_BLOCK}\.(mlp|feed_forward)\.(fc1|w1|w2|w12)", "ffn_in"),
    ("MatMul", rf"{_BLOCK}\.(mlp|feed_forward)\.(fc2|w3)", "ffn_out"),
    ("MatMul", rf"{_BLOCK}\.(attn|attention)", "scores or values"),
    ("Softmax", rf"{_BLOCK}\.(attn|attention)", "softmax"),
    ("Add", _BLOCK, RESIDUAL),
    ("Conv", r"(?:backbone\.)?patch_embed\.proj", "patches"),
    ("MatMul", r"stages\.\d+\.\d+\.pwconv1", "ffn_in"),
    ("MatMul", r"stages\.\d+\.\d+\.pwconv2", "ffn_out"),
    ("Conv", r"stages\.\d+\.\d+\.dwconv", "depthwise"),
    ("Conv", r"downsample_layers\.[1-3]\.1", "downsample"),
)


def path_of(node: ir.Node) -> str:
    """Path of the module that a node came from: `blocks.3.attn.q`."""
    return str(node.name).partition("/")[0]


ROOT = ("",)  # the graph is one backbone


def role_of(node: ir.Node, backbones: Collection[str] = ROOT) -> str | None:
    """The role of a node, or None if no recipe changes it.

    backbones: the module paths of the backbones in the graph, "" for a graph that is one.
    """
    found = "MatMul" if node.op_type == "MatMulIntegerToFloat" else node.op_type
    path = path_of(node)
    inside = [path.removeprefix(f"{one}.") for one in backbones if not one or path.startswith(f"{one}.")]
    for operator, pattern, role in _ROLES:
        if found == operator and any(re.fullmatch(pattern, one) for one in inside):
            return role if role != "scores or values" else _scores_or_values(node)
    return None


HEAD_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def is_head_product(node: ir.Node, backbones: Collection[str]) -> bool:
    """Whether a node is a product outside the backbones: what a head's own precision changes."""
    path = path_of(node)
    inside = any(not one or path == one or path.startswith(f"{one}.") for one in backbones)
    floats = all(value is None or value.dtype in (None, FP32) for value in node.inputs)
    return node.op_type in HEAD_PRODUCTS and not inside and floats


def _scores_or_values(product: ir.Node) -> str:
    """Of attention's two products, "values" is the one whose input is softmax's output, possibly cast."""
    producer = product.inputs[0].producer() if product.inputs[0] is not None else None
    while producer is not None and producer.op_type == "Cast" and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return "values" if producer is not None and producer.op_type == "Softmax" else "scores"


def type_of(path: str, role: str, recipe: Recipe, overrides: Sequence[Override]) -> ir.DataType:
    """The 16- or 32-bit type of a layer: the last matching override's, else the fallback or the role's."""
    for pattern, name in reversed(overrides):
        if fnmatchcase(path, pattern):
            return TYPES[name]
    dtype = recipe.roles[role]
    return recipe.fallback if recipe.quantized and role in LINEAR else dtype


def shifts(seen: LinearRange, dtype: ir.DataType) -> tuple[int, int]:
    """(i, w): powers of two by which a layer's input and weights are scaled down to fit `dtype`.

    Smallest i with largest_input / 2^i <= limit, then smallest w with largest_output / 2^(i+w) <= limit,
    where limit is the type's largest value over its headroom (`LIMITS`).
    """
    largest, headroom = LIMITS.get(dtype, (math.inf, 1.0))
    limit = largest / headroom
    i = max(0, math.ceil(math.log2(seen.largest_input / limit))) if seen.largest_input > limit else 0
    left = seen.largest_output / 2**i
    w = max(0, math.ceil(math.log2(left / limit))) if left > limit else 0
    return i, w
