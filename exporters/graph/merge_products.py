"""One matrix product where several linear layers read the same input: q, k and v; w1 and w2 of a SwiGLU.

    x ─┬─> q ─>          x ─> qkv ─> Split ─┬─> q
       ├─> k ─>    =>                       ├─> k
       └─> v ─>                             └─> v

For GPUs only. TensorRT fuses such products by itself, and its fusion is known to corrupt V at batch 1
(NVIDIA/TensorRT-Edge-LLM issues 105 and 151); with one product nothing is left to fuse. On CPUs three
products are 3-4 % faster.

The weights stay apart in the file, where the graphs for CPUs read them too; a Concat of constants joins
them, which runtimes compute when they build or load the graph. Products in 8 bits stay as they are: TensorRT
takes an 8-bit constant only where a DequantizeLinear reads it, and TensorRT-RTX 1.7.1 builds no graph that
joins dequantised weights.

Shapes: K input channels, N output channels of one layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exporters.graph.edit import Edit

# layers of one module with the same input: "blocks.3.attn" -> q, k, v
_LAYERS = re.compile(r"(?P<module>(?:.+\.)?blocks\.\d+\.(?:attn|mlp))\.(?P<part>[qkv]|w[12])/MatMul")
_NAMES: dict[tuple[str, ...], str] = {("w1", "w2"): "w12"}


def merge_products(graph: ir.Graph) -> int:
    """Merge the products of every module in place; returns how many took the place of several."""
    groups: dict[tuple[object, ...], list[ir.Node]] = {}
    for node in graph:
        named = _LAYERS.fullmatch(str(node.name)) if node.op_type == "MatMul" else None
        if named is not None and _weight(node).const_value is not None:
            kind = named["module"], node.inputs[0], _weight(node).dtype
            groups.setdefault(kind, []).append(node)
    several = [group for group in groups.values() if len(group) > 1]
    for group in several:
        _merge(Edit(graph), group)
    return len(several)


def _merge(edit: Edit, group: Sequence[ir.Node]) -> None:
    """Replace products with one input by one product and a Split."""
    first = group[0]  # in the order of the graph: nothing uses the others before
    parts = tuple(str(node.name).removesuffix("/MatMul").rpartition(".")[2] for node in group)
    module = str(first.name).removesuffix(f".{parts[0]}/MatMul")
    name = f"{module}.{_NAMES.get(parts, ''.join(parts))}"
    weights = [_weight(node) for node in group]
    widths = [weight.shape[1] for weight in weights if weight.shape is not None]
    joined = edit.before(first, "Concat", weights, f"{name}.weight", axis=1)
    product = edit.before(first, "MatMul", [first.inputs[0], joined], f"{name}/MatMul")  # type: ignore[list-item]
    sizes = edit.constant(f"const.widths_{'_'.join(map(str, widths))}", np.array(widths, np.int64))
    split = ir.node(
        "Split", [product, sizes], attributes={"axis": -1}, num_outputs=len(group), name=f"{name}/Split"
    )
    edit.graph.insert_before(first, split)
    for part, node, output in zip(parts, group, split.outputs, strict=True):
        output.name, output.type = f"{module}.{part}", node.outputs[0].type
        node.outputs[0].replace_all_uses_with(output)
        edit.graph.remove(node, safe=True)


def _weight(product: ir.Node) -> ir.Value:
    weight = product.inputs[1]
    assert weight is not None
    return weight
