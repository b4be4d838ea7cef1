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

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter.pattern import Pattern

from exporters.graph.edit import Edit

MICROSOFT = "com.microsoft"
HEADS, LAST_TWO = (0, 2, 1, 3), (0, 1, 3, 2)  # permutations: to heads first and back, of a matrix

# Names of the dialect's pattern -> values: q k v [B,L,D], tables [L,d] (sin's first half is negative), `end`
# [B,L,D]. Tables are None where nothing is rotated.
Attention = dict[str, Any]


def _pattern(*, rotary: bool) -> Pattern:
    """Attention as `exporters/dialects/rope_and_attention.py` writes it."""

    def heads(op: Any, x: Any, split: Any) -> Any:
        return op.Transpose(op.Reshape(x, split), perm=HEADS)

    def side(op: Any, x: Any, split: Any, sin: Any, cos: Any) -> Any:
        x = heads(op, x, split)
        if not rotary:
            return x
        first, second = op.Split(x, _outputs=2)
        return op.Add(op.Mul(x, cos), op.Mul(op.Concat(second, first), sin))

    def attention(
        op: Any, q: Any, k: Any, v: Any, split: Any, out: Any, q_sin: Any, q_cos: Any, k_sin: Any, k_cos: Any
    ) -> Any:
        k = op.Transpose(side(op, k, split, k_sin, k_cos), perm=LAST_TWO)
        weights = op.Softmax(op.MatMul(side(op, q, split, q_sin, q_cos), k), _outputs=["weights"])
        attended = op.Transpose(op.MatMul(weights, heads(op, v, split)), perm=HEADS)
        return op.Reshape(attended, out, _outputs=["end"])

    return Pattern(attention)


PATTERNS = (_pattern(rotary=True), _pattern(rotary=False))


def has_rotary_attention(model: ir.Model) -> bool:
    return bool(_find(model))


def fuse_attention(model: ir.Model) -> int:
    """Rewrite every rotary attention of an fp32 graph in place; how many there were."""
    edit = Edit(model.graph)
    found = _find(model)
    for attention in found:
        _rewrite(edit, attention)
    if found:
        model.opset_imports[MICROSOFT] = 1
        common.RemoveUnusedNodesPass()(model)
    return len(found)


def _find(model: ir.Model) -> list[Attention]:
    found = []
    for node in model.graph:
        for pattern in PATTERNS if node.op_type == "Reshape" else ():
            match = pattern.match(model, model.graph, node, check_nodes_are_removable=False)
            if match:
                attention, weights = match.bindings, match.bindings["weights"]
                split = ir.convenience.get_const_tensor(attention["split"])
                batch, tokens, heads, head_dim = split.numpy().tolist() if split is not None else [-1] * 4
                looked_at = weights.is_graph_output() or len(weights.uses()) > 1
                if batch == tokens == 0 and not looked_at and not attention["end"].is_graph_output():
                    found.append({**attention, "heads": heads, "head_dim": head_dim})
    return found


def _rewrite(edit: Edit, attention: Attention) -> None:
    end, node = attention["end"], attention["end"].producer()
    stem = str(node.name).rpartition("/")[0]
    sides = [_rotated(edit, attention, side, f"{stem}/{side}_rotated") for side in "qk"]
    attended = edit.before(
        node,
        "MultiHeadAttention",
        [*sides, attention["v"]],
        f"{stem}/attended",
        domain=MICROSOFT,
        num_heads=attention["heads"],
        scale=1.0,  # q is scaled already, or its weights are
    )
    attended.type = ir.TensorType(ir.DataType.FLOAT)
    end.replace_all_uses_with(attended)


def _rotated(edit: Edit, attention: Attention, side: str, name: str) -> Any:
    """q or k [B,L,D], rotated by its tables if it has any."""
    tables = [attention[f"{side}_cos"], attention[f"{side}_sin"]]
    if None in tables:
        return attention[side]
    first = edit.constant("const.first_position", np.array([0], np.int64))
    halves = [_half(edit, table, attention["head_dim"]) for table in tables]
    return edit.before(
        attention["end"].producer(),
        "RotaryEmbedding",
        [attention[side], first, *halves],
        name,
        domain=MICROSOFT,
        num_heads=attention["heads"],
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
