"""Trace one of several blocks that are alike, and write the others into the graph.

Tracing and translating a block takes four tenths of a second, and a model's blocks differ in their weights
alone. So while a model is traced, a block that is like the one before it steps aside for one operator,
`BlockAgain`; in the graph, that becomes a copy of what was made of the block before, over weights of its own.
What comes out is the graph that tracing every block gives, byte by byte: see
`tests/exporters/trace/test_repeat.py`.

A user's own layer might do anything, so only blocks made of our layers and torch's stand for each other.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnxscript import values
from torch import Tensor, nn
from torch.library import custom_op

from dinov3_ref.models import Backbone, ConvNeXt, DinoVisionTransformer

OUR_LAYERS = ("torch.nn.", "dinov3_ref.", "exporters.")  # modules whose layers are known
SCOPES = "pkg.torch.onnx.name_scopes"  # where torch.onnx notes the path of a node's layer
DOMAIN = "dinodeploy"  # of the two operators below; none is left in a finished graph
BEGIN, AGAIN = "BlockBegins", "BlockAgain"
PLAIN = (bool, int, float, str, tuple, list, type(None))


@custom_op("dinodeploy::block_begins", mutates_args=())
def block_begins(x: Tensor, path: str) -> Tensor:
    """Marks what enters the block at `path`."""
    return x.clone()


@custom_op("dinodeploy::block_again", mutates_args=())
def block_again(x: Tensor, path: str, like: str) -> Tensor:
    """Stands for the block at `path`, which does to `x` as the one at `like`."""
    return x.clone()


@block_begins.register_fake
def _(x: Tensor, path: str) -> Tensor:
    return torch.empty_like(x)


@block_again.register_fake
def _(x: Tensor, path: str, like: str) -> Tensor:
    return torch.empty_like(x)


def _operator(name: str, *attributes: str) -> values.Op:
    """An ONNX operator x -> y with strings for attributes."""
    schema = OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter("x", "T")],
        outputs=[OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[OpSchema.Attribute(attribute, OpSchema.AttrType.STRING) for attribute in attributes],
    )
    return values.Op(values.Opset(DOMAIN, 1), name, schema)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.dinodeploy.block_begins.default: lambda x, path: _operator(BEGIN, "path")(x, path=path),
    torch.ops.dinodeploy.block_again.default: lambda x, path, like: _operator(AGAIN, "path", "like")(
        x, path=path, like=like
    ),
}


class _Again(nn.Module):
    """Stands where a block stood; takes a tensor, or a ViT's list of them and its RoPE tables."""

    def __init__(self, path: str, like: str) -> None:
        super().__init__()
        self.path, self.like = path, like

    def forward(self, x: Tensor | list[Tensor], *_: Any) -> Tensor | list[Tensor]:
        if isinstance(x, list):
            return [self.forward(one) for one in x]  # type: ignore[misc]
        return block_again(x, self.path, self.like)


@contextmanager
def each_kind_once(model: Backbone, seen: Collection[int] = ()) -> Iterator[None]:
    """While open, blocks step aside that are like the one before them.

    `seen` are blocks of a ViT whose output is looked at: none after such a one stands for it or before it.
    """
    stood: list[tuple[Any, int, nn.Module]] = []
    marked = []
    try:
        for path, chain, ends in _chains(model, seen):
            like = 0
            for index, (before, block) in enumerate(pairwise(list(chain)), 1):
                if index - 1 in ends or not _alike(before, block):
                    like = index
                    continue
                if like == index - 1:
                    marked.append(before.register_forward_pre_hook(_marker(f"{path}.{like}")))
                stood.append((chain, index, block))
                chain[index] = _Again(f"{path}.{index}", f"{path}.{like}")
        yield
    finally:
        for handle in marked:
            handle.remove()
        for chain, index, block in stood:
            chain[index] = block


def _chains(model: Backbone, seen: Collection[int]) -> Iterator[tuple[str, Any, Collection[int]]]:
    """Path of the chain, its blocks, and those whose output is looked at."""
    if isinstance(model, ConvNeXt):
        for index, stage in enumerate(model.stages):
            yield f"stages.{index}", stage, ()  # what follows a stage sees its end alone
        return
    if type(model).run_blocks is DinoVisionTransformer.run_blocks:
        yield "blocks", model.blocks, seen


def _marker(path: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def mark(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = inputs
        marked = [block_begins(one, path) for one in x] if isinstance(x, list) else block_begins(x, path)
        return (marked, *rest)

    return mark


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """The same known layers with the same settings and shapes of weights; values may differ."""
    mine, its = dict(one.named_modules()), dict(other.named_modules())
    return (
        list(mine) == list(its)
        and _shapes(one) == _shapes(other)
        and all(_same_layer(layer, its[name]) for name, layer in mine.items())
    )


def _shapes(block: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(name, tensor.shape, tensor.dtype) for name, tensor in block.state_dict().items()]


def _same_layer(one: nn.Module, other: nn.Module) -> bool:
    if type(one) is not type(other) or not type(one).__module__.startswith(OUR_LAYERS):
        return False
    if any(layer._forward_hooks or layer._forward_pre_hooks for layer in (one, other)):
        return False
    mine, its = _settings(one), _settings(other)
    return mine.keys() == its.keys() and all(
        value is its[key] or (isinstance(value, PLAIN) and value == its[key]) for key, value in mine.items()
    )


def _settings(layer: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(layer).items() if not key.startswith("_")}


# ---- in the graph ------------------------------------------------------------------------------------


def write_out(graph: ir.Graph, wrapper: str) -> None:
    """Put the copies where `BlockAgain` stands. `wrapper` is what the names of all weights begin with."""
    begins = {_text(node, "path"): node for node in graph if node.op_type == BEGIN}
    blocks: dict[str, _Block] = {}
    for node in [node for node in graph if node.op_type == AGAIN]:
        path, like = _text(node, "path"), _text(node, "like")
        entering = node.inputs[0]
        assert entering is not None
        if like not in blocks:  # the first behind the block takes what the block made
            blocks[like] = _Block(graph, wrapper, like, begins[like].outputs[0], entering)
        left = blocks[like].copy(path, entering, node)
        left.name = node.outputs[0].name  # it may be an output of the graph
        node.outputs[0].replace_all_uses_with(left, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    for node in begins.values():
        assert node.inputs[0] is not None
        node.outputs[0].replace_all_uses_with(node.inputs[0])
        graph.remove(node, safe=True)


def _text(node: ir.Node, attribute: str) -> str:
    return node.attributes[attribute].as_string()


class _Block:
    """The nodes between what enters a block and what leaves it that are the block's own."""

    def __init__(self, graph: ir.Graph, wrapper: str, path: str, enters: ir.Value, leaves: ir.Value) -> None:
        self.graph, self.enters, self.leaves = graph, enters, leaves
        self.prefix, self.wrapper = f"{wrapper}{path}.", wrapper
        own: set[ir.Node] = set()
        _find_own(leaves, enters, self.prefix, own, set())
        self.nodes = [node for node in graph if node in own]

    def copy(self, path: str, entering: ir.Value, before: ir.Node) -> ir.Value:
        """Write the block at `path` ahead of `before`; the value that leaves it."""
        made: dict[ir.Value | None, ir.Value | None] = {self.enters: entering}
        for node in self.nodes:
            inputs = [made.get(value, self._weight_of(path, value)) for value in node.inputs]
            twin = ir.Node(
                node.domain,
                node.op_type,
                inputs,
                list(node.attributes.values()),
                overload=node.overload,
                num_outputs=len(node.outputs),
                metadata_props=self._moved(path, node.metadata_props),
            )
            for old, new in zip(node.outputs, twin.outputs, strict=True):
                new.name, new.type, new.shape = f"{old.name}/{path}", old.type, old.shape
                made[old] = new
            self.graph.insert_before(before, twin)
        left = made[self.leaves]
        assert left is not None
        return left

    def _weight_of(self, path: str, value: ir.Value | None) -> ir.Value | None:
        """The same weight of the block at `path`; what is no weight of the block is shared."""
        if value is None or not str(value.name).startswith(self.prefix) or not value.is_initializer():
            return value
        name = f"{self.wrapper}{path}.{str(value.name).removeprefix(self.prefix)}"
        if name not in self.graph.initializers:
            twin = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
            self.graph.initializers.add(twin)
        return self.graph.initializers[name]

    def _moved(self, path: str, metadata: dict[str, str]) -> dict[str, str]:
        """A node's notes, with the paths of the layers around it in the block at `path`."""
        whole = self.prefix.removesuffix(".")
        scopes = [
            f"{self.wrapper}{path}{scope.removeprefix(whole)}"
            if f"{scope}.".startswith(self.prefix)
            else scope
            for scope in ast.literal_eval(metadata.get(SCOPES, "[]"))
        ]
        return {**metadata, SCOPES: repr(scopes)}


def _find_own(
    value: ir.Value, enters: ir.Value, prefix: str, own: set[ir.Node], shared: set[ir.Node]
) -> bool:
    """Sort what leads to `value` into the block's own and what it shares; whether `value` is its own."""
    node = value.producer()
    if value is enters or (node is None and str(value.name).startswith(prefix)):
        return True
    if node is None or node in shared:
        return False
    if node not in own:
        found = [_find_own(given, enters, prefix, own, shared) for given in node.inputs if given is not None]
        (own if any(found) else shared).add(node)
    return node in own
