"""CLS-only graph: in the last block, other tokens need only their keys and values.

    x [B,L,D] ─┬─> norm1 ─┬─> k, v ───────────────────────────┐
               │          └─> first row ─> q ─> first of RoPE ┴─> attention ─> proj ─┐
               └─> first row ────────────────────────────────────────────────────────+─> FFN ─> norm ─> cls

The same operators on the same numbers, for one row in place of L. Nothing is cut where the last block has
parts of a user's own, which might mix tokens.

Shapes: B batch, L tokens, D embed_dim, d head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from torch import nn

from dinodeploy.bundle.manifest import CLS_ONLY_OUTPUTS
from dinov3_ref.layers import LayerScale, Mlp, RMSNorm, SelfAttentionBlock, SwiGLUFFN
from dinov3_ref.models import Backbone, DinoVisionTransformer
from exporters.graph.edit import Edit
from exporters.trace.custom_ops import TracedAttention

# What treats every token by itself, attention apart.
ROW_BY_ROW = (nn.LayerNorm, RMSNorm, LayerScale, Mlp, SwiGLUFFN, nn.Identity)


def can_cut(meta_copy: Backbone) -> bool:
    """Whether the last block, and what follows, is known to mix tokens in attention only."""
    if not isinstance(meta_copy, DinoVisionTransformer):
        return False
    block = meta_copy.blocks[-1]
    if type(block) is not SelfAttentionBlock or type(block.attn) is not TracedAttention:
        return False
    rest = [module for name, module in block.named_children() if name != "attn"]
    norms = [norm for norm in (meta_copy.norm, meta_copy.cls_norm) if norm is not None]
    return all(type(module) in ROW_BY_ROW for module in (*rest, *norms))


def cut_to_cls(model: ir.Model, last: int) -> ir.Model:
    """A copy of an fp32 graph that puts out `cls` alone; `last` is the index of its last block."""
    cut = model.clone()
    graph, block = cut.graph, f"blocks.{last}"
    edit = Edit(graph)
    nodes = {node.name: node for node in graph}
    query, residual = nodes[f"{block}.attn.q/MatMul"], nodes[f"{block}/Add"]
    for node, index in list(_tables_of(query)):
        _first_row(edit, node, index, axis=0)
    _first_row(edit, query, 0, axis=1)
    from_before = [not _made_in(value, block) for value in residual.inputs]
    _first_row(edit, residual, from_before.index(True), axis=1)
    graph.outputs[:] = [value for value in graph.outputs if value.name in CLS_ONLY_OUTPUTS]
    common.RemoveUnusedNodesPass()(cut)
    return cut


def _tables_of(query: ir.Node) -> Iterator[tuple[ir.Node, int]]:
    """(node, input) where a table [L,d] is met on the way from q's product to the scores."""
    ahead, seen = [query.outputs[0]], {query.outputs[0]}
    while ahead:
        for node, _ in ahead.pop().uses():
            if node.op_type == "MatMul":  # the scores
                continue
            for index, value in enumerate(node.inputs):
                if value is not None and value not in seen and _made_in(value, "rope_embed"):
                    yield node, index
            fresh = [value for value in node.outputs if value not in seen]
            ahead += fresh
            seen.update(fresh)


def _made_in(value: ir.Value | None, module: str) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and str(producer.name).startswith((f"{module}/", f"{module}."))


def _first_row(edit: Edit, node: ir.Node, index: int, axis: int) -> None:
    """Let `node` take only the first row of one of its inputs."""
    value = node.inputs[index]
    assert value is not None
    first, second, along = (
        edit.constant(f"const.row_{number}", np.array([number], np.int64)) for number in (0, 1, axis)
    )
    row = edit.before(node, "Slice", [value, first, second, along], f"{node.name}/first_row{index}")
    node.replace_input_with(index, row)
