"""Translate RoPE, attention and GELU to ONNX: the portable dialect, opset 18, operators of every runtime.

Parses on TensorRT 10.3 to 11.x, TensorRT-RTX, ONNX Runtime and OpenVINO. Attention is decomposed. Only q is
scaled: a scale on both q and k gave wrong results (NVIDIA/TensorRT issues 4333, 4328, 4482). Split and Concat
swap the halves: `tile` became `If` + `Tile` (4558, 4603).

Shapes: B batch, h w patch grid, L tokens, D embed_dim, N heads, d head_dim, F = d/4 frequencies an axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto
from onnxscript import opset18

from exporters.trace.custom_ops import HIDDEN

OPSET = 18
IR_VERSION = 8  # the IR version of opset 18, which the oldest supported parser knows
FLOAT = TensorProto.FLOAT
END = 2**63 - 1  # of a Slice: to the end
op: Any = opset18  # Any: its annotations are for eager calls, and here its operators build graph nodes


def _vector(*sizes: Any) -> Any:
    """Scalars, constant or symbolic, as one int64 vector."""
    parts = [
        op.Constant(value_ints=[s]) if isinstance(s, int) else op.Reshape(s, op.Constant(value_ints=[1]))
        for s in sizes
    ]
    return op.Concat(*parts, axis=0)


def _axis_angles(count: Any, span: Any, periods: Any) -> Any:
    """Angles [count, F] of patch centres along one axis, in the order of operations of the reference."""
    index = op.Cast(op.Range(0, count, 1), to=FLOAT)
    centre = op.Div(op.Add(index, 0.5), op.Cast(span, to=FLOAT))
    coordinate = op.Sub(op.Mul(centre, 2.0), 1.0)
    column = op.Unsqueeze(op.Mul(coordinate, 2 * math.pi), op.Constant(value_ints=[1]))
    return op.Div(column, periods)


def rope_table(periods: Any, h: Any, w: Any, prefix: int, normalize: str) -> tuple[Any, Any]:
    """`exporters.trace.custom_ops.rope_table`: periods [F] -> (sin, cos) [L, d], in fp32 at run time."""
    F = periods.shape[0]
    span_h, span_w = {"separate": (h, w), "max": (op.Max(h, w),) * 2, "min": (op.Min(h, w),) * 2}[normalize]
    angles_h = op.Unsqueeze(_axis_angles(h, span_h, periods), op.Constant(value_ints=[1]))
    angles_w = op.Unsqueeze(_axis_angles(w, span_w, periods), op.Constant(value_ints=[0]))
    grid_shape = _vector(h, w, F)
    grid = op.Concat(op.Expand(angles_h, grid_shape), op.Expand(angles_w, grid_shape), axis=-1)
    patches = op.Reshape(grid, op.Constant(value_ints=[-1, 2 * F]))
    zeros = op.Constant(value=_zeros(prefix, 2 * F))
    half = op.Concat(zeros, patches, axis=0)
    sin, cos = op.Sin(half), op.Cos(half)
    return op.Concat(op.Neg(sin), sin, axis=-1), op.Concat(cos, cos, axis=-1)


def _zeros(rows: int, columns: int) -> TensorProto:
    return TensorProto(dims=[rows, columns], data_type=FLOAT, raw_data=bytes(4 * rows * columns))


def _split_heads(x: Any, num_heads: int, head_dim: int) -> Any:
    """[B,L,D] -> [B,N,L,d]; zeros in Reshape copy B and L, so no Shape operator is needed."""
    split = op.Reshape(x, op.Constant(value_ints=[0, 0, num_heads, head_dim]))
    return op.Transpose(split, perm=[0, 2, 1, 3])


def _rotate(x: Any, sin: Any, cos: Any) -> Any:
    """x [B,N,L,d] rotated by the table [L,d] (docs/spec.md 2.3); `sin` includes the sign."""
    first, second = op.Split(x, num_outputs=2, axis=-1)
    return op.Add(op.Mul(x, cos), op.Mul(op.Concat(second, first, axis=-1), sin))


def rope_attention(q: Any, k: Any, v: Any, sin: Any, cos: Any, num_heads: int, scale: float) -> Any:
    """`exporters.trace.custom_ops.rope_attention`, decomposed: q, k, v [B,L,D] -> [B,L,D]."""
    dim = q.shape[2]
    head_dim = dim // num_heads
    q, k, v = (_split_heads(t, num_heads, head_dim) for t in (q, k, v))
    if sin is not None:
        q, k = _rotate(q, sin, cos), _rotate(k, sin, cos)
    if scale != 1.0:
        q = op.Mul(q, scale)
    scores = op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2]))
    attended = op.MatMul(op.Softmax(scores, axis=-1), v)
    return op.Reshape(op.Transpose(attended, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, dim]))


def masked_rope_attention(
    q: Any, k: Any, v: Any, visible: Any, sin: Any, cos: Any, num_heads: int, scale: float
) -> Any:
    """`exporters.trace.custom_ops.masked_rope_attention`: q, k, v [B,L,D], visible [B,Q,L] -> [B,L,D].

    The first Q rows and the others are two products, so that the mask is only as large as it has to be.
    """
    dim, count = q.shape[2], visible.shape[1]
    q, k, v = (_split_heads(t, num_heads, dim // num_heads) for t in (q, k, v))
    if sin is not None:
        q, k = _rotate(q, sin, cos), _rotate(k, sin, cos)
    if scale != 1.0:
        q = op.Mul(q, scale)
    k = op.Transpose(k, perm=[0, 1, 3, 2])
    start, split, end, rows = (op.Constant(value_ints=[n]) for n in (0, count, END, 2))
    mask = op.Unsqueeze(op.Where(visible, 0.0, HIDDEN), op.Constant(value_ints=[1]))
    first = op.Add(op.MatMul(op.Slice(q, start, split, rows), k), mask)
    others = op.MatMul(op.Slice(q, split, end, rows), k)
    attended = op.Concat(*(op.MatMul(op.Softmax(s, axis=-1), v) for s in (first, others)), axis=2)
    return op.Reshape(op.Transpose(attended, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, dim]))


def first_row_weights(q: Any, k: Any, sin: Any, cos: Any, num_heads: int, scale: float) -> Any:
    """`exporters.trace.custom_ops.first_row_weights`: q [B,1,D], k [B,L,D] -> [B,N,1,L].

    Nodes that the block's attention has too are merged later.
    """
    dim = q.shape[2]
    q, k = (_split_heads(t, num_heads, dim // num_heads) for t in (q, k))
    if sin is not None:
        k = _rotate(k, sin, cos)
    if scale != 1.0:
        q = op.Mul(q, scale)
    return op.Softmax(op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2])), axis=-1)


def causal_mask(ids: Any) -> Any:
    """`exporters.trace.custom_ops.causal_mask`: ids [B,L] -> [L,L], at run time."""
    index = op.Range(0, op.Squeeze(op.Shape(ids, start=1, end=2)), 1)
    row = op.Unsqueeze(index, op.Constant(value_ints=[1]))
    column = op.Unsqueeze(index, op.Constant(value_ints=[0]))
    return op.Where(op.Less(row, column), op.Constant(value_float=-math.inf), op.Constant(value_float=0.0))


def masked_attention(q: Any, k: Any, v: Any, mask: Any, num_heads: int, scale: float) -> Any:
    """`exporters.trace.custom_ops.masked_attention`, decomposed: q, k, v [B,L,D] -> [B,L,D]."""
    dim = q.shape[2]
    q, k, v = (_split_heads(t, num_heads, dim // num_heads) for t in (q, k, v))
    if scale != 1.0:
        q = op.Mul(q, scale)
    scores = op.Add(op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2])), mask)
    attended = op.MatMul(op.Softmax(scores, axis=-1), v)
    return op.Reshape(op.Transpose(attended, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, dim]))


def gelu(x: Any, approximate: str = "none") -> Any:
    """GELU in the order of operations that ONNX Runtime and TensorRT recognise and fuse.

    torch's own translation multiplies erf(x/√2) + 1 by 0.5 before it multiplies by x: the same values, but
    not fused, with five passes over memory. DINOv3 uses the exact form; a user's own layer may use the tanh
    approximation (Hendrycks and Gimpel, arXiv:1606.08415).
    """
    if approximate == "tanh":
        cubic = op.Add(x, op.Mul(op.Mul(op.Mul(x, x), x), 0.044715))
        bend = op.Tanh(op.Mul(cubic, math.sqrt(2.0 / math.pi)))
    else:
        bend = op.Erf(op.Div(x, math.sqrt(2.0)))
    return op.Mul(op.Mul(x, op.Add(bend, 1.0)), 0.5)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.gelu.default: gelu,
    torch.ops.dinodeploy.rope_table.default: rope_table,
    torch.ops.dinodeploy.rope_attention.default: rope_attention,
    torch.ops.dinodeploy.masked_rope_attention.default: masked_rope_attention,
    torch.ops.dinodeploy.first_row_weights.default: first_row_weights,
    torch.ops.dinodeploy.causal_mask.default: causal_mask,
    torch.ops.dinodeploy.masked_attention.default: masked_attention,
}
