"""Rotary attention as ONNX Runtime's own operators, for graphs that only its CPU runs.

    q ─> heads ─> rotate ─┐                          q ─> RotaryEmbedding ─┐
    k ─> heads ─> rotate ─┴> scores ─> softmax ─┐    k ─> RotaryEmbedding ─┼> MultiHeadAttention
    v ─> heads ─────────────────────────────────┴>   v ────────────────────┘

Rotation is one pass over memory in place of five, and attention works through a block of rows at a time, so
that scores of L x L never leave the caches (Dao et al., arXiv:2205.14135). What is not exactly the dialect's
pattern stays as it is: a user's own attention, scores that something else looks at.

Shapes: B batch, L tokens, D embed_dim, d head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from exporters.graph.edit import Edit

MICROSOFT = "com.microsoft"
HEADS, LAST_TWO = (0, 2, 1, 3), (0, 1, 3, 2)  # permutations: to heads first and back, of a matrix


@dataclass(frozen=True)
class _Side:
    """What q or k comes from: its projection [B,L,D], and the tables it is rotated by."""

    projected: ir.Value
    sin: ir.Value | None = None  # [L,d]: the first half negative
    cos: ir.Value | None = None


@dataclass(frozen=True)
class _Attention:
    """One rotary attention, as the dialect writes it."""

    q: _Side
    k: _Side
    v: ir.Value  # [B,L,D]
    heads: int
    head_dim: int
    end: ir.Node  # makes [B,L,D] of the attended heads


def has_rotary_attention(model: ir.Model) -> bool:
    return any(_match(node) is not None for node in model.graph)


def fuse_attention(model: ir.Model) -> int:
    """Rewrite every rotary attention of an fp32 graph in place; how many there were."""
    edit = Edit(model.graph)
    found = [match for match in map(_match, model.graph) if match is not None]
    for attention in found:
        _rewrite(edit, attention)
    if found:
        model.opset_imports[MICROSOFT] = 1
        common.RemoveUnusedNodesPass()(model)
    return len(found)


def _match(softmax: ir.Node) -> _Attention | None:
    """The attention around a Softmax."""
    if softmax.op_type != "Softmax":
        return None
    scores = _maker(softmax.inputs[0], "MatMul")
    weighted = _only_user(softmax.outputs[0], "MatMul")
    back = _only_user(weighted.outputs[0], "Transpose") if weighted is not None else None
    end = _only_user(back.outputs[0], "Reshape") if back is not None else None
    turned = _maker(scores.inputs[1], "Transpose") if scores is not None else None
    if scores is None or weighted is None or back is None or end is None or turned is None:
        return None
    if weighted.inputs[0] is not softmax.outputs[0] or end.outputs[0].is_graph_output():
        return None
    if _perm(turned) != LAST_TWO or _perm(back) != HEADS:
        return None
    q, k, v = _side(scores.inputs[0]), _side(turned.inputs[0]), _split_heads(weighted.inputs[1])
    if q is None or k is None or v is None:
        return None
    projected, heads, head_dim = v
    return _Attention(q, k, projected, heads, head_dim, end)


def _side(value: ir.Value | None) -> _Side | None:
    """x · cos + (second half, first half) · sin of split heads, or split heads that are not rotated."""
    total = _maker(value, "Add")
    if total is None:
        plain = _split_heads(value)
        return _Side(plain[0]) if plain is not None else None
    straight, crossed = (_maker(term, "Mul") for term in total.inputs)
    swapped = _maker(crossed.inputs[0], "Concat") if crossed is not None else None
    halves = _maker(swapped.inputs[0], "Split") if swapped is not None else None
    if straight is None or crossed is None or swapped is None or halves is None:
        return None
    split = _split_heads(straight.inputs[0])
    if halves.inputs[0] is not straight.inputs[0] or split is None:
        return None
    if list(swapped.inputs) != list(reversed(halves.outputs)):
        return None
    return _Side(split[0], sin=crossed.inputs[1], cos=straight.inputs[1])


def _split_heads(value: ir.Value | None) -> tuple[ir.Value, int, int] | None:
    """The projection [B,L,D] of which [B,N,L,d] was made, N and d."""
    turned = _maker(value, "Transpose")
    split = _maker(turned.inputs[0], "Reshape") if turned is not None else None
    if turned is None or split is None or _perm(turned) != HEADS:
        return None
    projected, constant = split.inputs
    tensor = constant.const_value if constant is not None else None
    shape = [int(size) for size in tensor.numpy()] if tensor is not None else []
    if projected is None or len(shape) != 4 or shape[:2] != [0, 0]:
        return None
    return projected, shape[2], shape[3]


def _rewrite(edit: Edit, attention: _Attention) -> None:
    end = attention.end
    stem = str(end.name).rpartition("/")[0]
    attended = edit.before(
        end,
        "MultiHeadAttention",
        [
            _rotated(edit, attention.q, attention, f"{stem}/q_rotated"),
            _rotated(edit, attention.k, attention, f"{stem}/k_rotated"),
            attention.v,
        ],
        f"{stem}/attended",
        domain=MICROSOFT,
        num_heads=attention.heads,
        scale=1.0,  # q is scaled already, or its weights are
    )
    attended.type = ir.TensorType(ir.DataType.FLOAT)
    end.outputs[0].replace_all_uses_with(attended)


def _rotated(edit: Edit, side: _Side, attention: _Attention, name: str) -> ir.Value:
    if side.sin is None or side.cos is None:
        return side.projected
    first = edit.constant("const.first_position", np.array([0], np.int64))
    tables = [_half(edit, table, attention.head_dim) for table in (side.cos, side.sin)]
    return edit.before(
        attention.end,
        "RotaryEmbedding",
        [side.projected, first, *tables],
        name,
        domain=MICROSOFT,
        num_heads=attention.heads,
    )


def _half(edit: Edit, table: ir.Value, head_dim: int) -> ir.Value:
    """The second half [L,d/2] of a table [L,d], in which sin is positive; made once for all blocks."""
    name = f"{table.name}/half"
    made = next((node.outputs[0] for node, _ in table.uses() if node.name == name), None)
    if made is not None:
        return made
    start, end, axis = (
        edit.constant(f"const.half_{word}", np.array([number], np.int64))
        for word, number in (("start", head_dim // 2), ("end", head_dim), ("axis", 1))
    )
    first_user = next(node for node in edit.graph if any(value is table for value in node.inputs))
    return edit.before(first_user, "Slice", [table, start, end, axis], name)


def _maker(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def _only_user(value: ir.Value, operator: str) -> ir.Node | None:
    users = list(value.uses())
    node = users[0].node if len(users) == 1 and not value.is_graph_output() else None
    return node if node is not None and node.op_type == operator else None


def _perm(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes["perm"].as_ints())
