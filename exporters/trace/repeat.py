"""Trace one of several identical blocks, and copy it in the ONNX graph for the others.

Tracing and translating one block takes 0.4 seconds, and most blocks of a model differ only in their weights.
So `collapse_repeats` replaces a block that equals the block before it by one placeholder operator,
`BlockRepeat`, while the model is traced. In the graph, `expand_repeats` replaces each placeholder by a copy
of the traced block that uses the repeated block's own weights. The result is byte for byte the graph of
tracing every block (`tests/exporters/trace/test_repeat.py`).

A user's own layer can do anything, so only blocks made of our layers and torch's are collapsed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnxscript import values
from torch import Tensor, nn
from torch.library import custom_op

from dinov3_ref.models import ConvNeXt, DinoVisionTransformer

KNOWN_PACKAGES = ("torch.nn.", "dinov3_ref.", "exporters.")  # layers from here may be collapsed
SCOPES = "pkg.torch.onnx.name_scopes"  # node metadata in which torch.onnx stores the path of its layer
DOMAIN = "dinodeploy"  # of the two placeholder operators; a finished graph has neither
BLOCK_START, BLOCK_REPEAT = "BlockStart", "BlockRepeat"
COMPARABLE = (bool, int, float, str, tuple, list, type(None))


@custom_op("dinodeploy::block_start", mutates_args=())
def block_start(x: Tensor, path: str) -> Tensor:
    """Marks the input [B,L,D] or [B,h,w,C] of the block at `path`."""
    return x.clone()


@custom_op("dinodeploy::block_repeat", mutates_args=())
def block_repeat(x: Tensor, path: str, like: str) -> Tensor:
    """Placeholder for the block at `path`, which computes what the block at `like` computes."""
    return x.clone()


@block_start.register_fake
def _(x: Tensor, path: str) -> Tensor:
    return torch.empty_like(x)


@block_repeat.register_fake
def _(x: Tensor, path: str, like: str) -> Tensor:
    return torch.empty_like(x)


def _operator(name: str, *attributes: str) -> values.Op:
    """An ONNX operator x -> y with string attributes."""
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
    torch.ops.dinodeploy.block_start.default: lambda x, path: _operator(BLOCK_START, "path")(x, path=path),
    torch.ops.dinodeploy.block_repeat.default: lambda x, path, like: _operator(BLOCK_REPEAT, "path", "like")(
        x, path=path, like=like
    ),
}


class _Placeholder(nn.Module):
    """Replaces a block while tracing; takes a tensor, or a ViT's list of tensors and its RoPE tables."""

    def __init__(self, path: str, like: str) -> None:
        super().__init__()
        self.path, self.like = path, like

    def forward(self, x: Tensor | list[Tensor], *_: Any) -> Tensor | list[Tensor]:
        if isinstance(x, list):
            return [self.forward(one) for one in x]  # type: ignore[misc]
        return block_repeat(x, self.path, self.like)


@contextmanager
def collapse_repeats(model: nn.Module, seen: Collection[int] = (), at: str = "") -> Iterator[None]:
    """While open, placeholders replace the blocks that equal the block before them.

    `seen` are the indices of ViT blocks whose output is used outside the chain; the block after each is
    traced. `at`: path of the model in the traced module, with a dot at its end.
    """
    with ExitStack() as changes:
        for path, chain, used_outside in _chains(model, seen):
            path, like = f"{at}{path}", 0
            for index, (before, block) in enumerate(pairwise(list(chain)), 1):
                if index - 1 in used_outside or not _equal_blocks(before, block):
                    like = index
                    continue
                if like == index - 1:
                    changes.enter_context(before.register_forward_pre_hook(_marker(f"{path}.{like}")))
                changes.callback(chain.__setitem__, index, block)
                chain[index] = _Placeholder(f"{path}.{index}", f"{path}.{like}")
        yield


def _chains(model: nn.Module, seen: Collection[int]) -> Iterator[tuple[str, Any, Collection[int]]]:
    """Each chain of blocks: path, blocks, and indices of those whose output is used outside it."""
    if isinstance(model, ConvNeXt):
        for index, stage in enumerate(model.stages):
            yield f"stages.{index}", stage, ()  # only a stage's last output is used outside it
        return
    if not isinstance(model, DinoVisionTransformer):  # a text tower
        yield "backbone.blocks", model.get_submodule("backbone.blocks"), ()
    elif type(model).run_blocks is DinoVisionTransformer.run_blocks:
        yield "blocks", model.blocks, seen


def _marker(path: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def mark(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = inputs
        marked = [block_start(one, path) for one in x] if isinstance(x, list) else block_start(x, path)
        return (marked, *rest)

    return mark


def _equal_blocks(one: nn.Module, other: nn.Module) -> bool:
    """Whether two blocks have the same known layers, settings and weight shapes; weight values may differ."""
    mine, its = dict(one.named_modules()), dict(other.named_modules())
    return (
        list(mine) == list(its)
        and _shapes(one) == _shapes(other)
        and all(_same_layer(layer, its[name]) for name, layer in mine.items())
    )


def _shapes(block: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(name, tensor.shape, tensor.dtype) for name, tensor in block.state_dict().items()]


def _same_layer(one: nn.Module, other: nn.Module) -> bool:
    if type(one) is not type(other) or not type(one).__module__.startswith(KNOWN_PACKAGES):
        return False
    if any(layer._forward_hooks or layer._forward_pre_hooks for layer in (one, other)):
        return False
    mine, its = (
        {key: value for key, value in vars(layer).items() if not key.startswith("_")}
        for layer in (one, other)
    )
    return mine.keys() == its.keys() and all(
        value is its[key] or (isinstance(value, COMPARABLE) and value == its[key])
        for key, value in mine.items()
    )


# ---- in the graph ------------------------------------------------------------------------------------


def expand_repeats(graph: ir.Graph, wrapper: str) -> None:
    """Replace every `BlockRepeat` by a copy of its block. `wrapper` is the prefix of all weight names."""
    starts = {_text(node, "path"): node for node in graph if node.op_type == BLOCK_START}
    blocks: dict[str, _Block] = {}
    for node in [node for node in graph if node.op_type == BLOCK_REPEAT]:
        path, like = _text(node, "path"), _text(node, "like")
        entering = node.inputs[0]
        assert entering is not None
        if like not in blocks:  # the first repeat takes the traced block's output
            blocks[like] = _Block(graph, wrapper, like, starts[like].outputs[0], entering)
        left = blocks[like].copy(path, entering, node)
        left.name = node.outputs[0].name  # it may be an output of the graph
        node.outputs[0].replace_all_uses_with(left, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    for node in starts.values():
        assert node.inputs[0] is not None
        node.outputs[0].replace_all_uses_with(node.inputs[0])
        graph.remove(node, safe=True)


def _text(node: ir.Node, attribute: str) -> str:
    return node.attributes[attribute].as_string()


class _Block:
    """A traced block: the nodes between its input and its output that belong to no other block."""

    def __init__(self, graph: ir.Graph, wrapper: str, path: str, enters: ir.Value, leaves: ir.Value) -> None:
        self.graph, self.enters, self.leaves = graph, enters, leaves
        self.prefix, self.wrapper = f"{wrapper}{path}.", wrapper
        own: set[ir.Node] = set()
        _find_own(leaves, enters, self.prefix, own, set())
        self.nodes = [node for node in graph if node in own]

    def copy(self, path: str, entering: ir.Value, before: ir.Node) -> ir.Value:
        """Insert a copy for the block at `path` before the node `before`; returns the copy's output."""
        made: dict[ir.Value | None, ir.Value | None] = {self.enters: entering}
        for node in self.nodes:
            inputs = [made.get(value, self._weight_of(path, value)) for value in node.inputs]
            copied = ir.Node(
                node.domain,
                node.op_type,
                inputs,
                list(node.attributes.values()),
                overload=node.overload,
                num_outputs=len(node.outputs),
                metadata_props=self._moved(path, node.metadata_props),
            )
            for old, new in zip(node.outputs, copied.outputs, strict=True):
                new.name, new.type, new.shape = f"{old.name}/{path}", old.type, old.shape
                made[old] = new
            self.graph.insert_before(before, copied)
        left = made[self.leaves]
        assert left is not None
        return left

    def _weight_of(self, path: str, value: ir.Value | None) -> ir.Value | None:
        """The same weight in the block at `path`; a value that is not a weight of the block is shared."""
        if value is None or not str(value.name).startswith(self.prefix) or not value.is_initializer():
            return value
        name = f"{self.wrapper}{path}.{str(value.name).removeprefix(self.prefix)}"
        if name not in self.graph.initializers:
            weight = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
            self.graph.initializers.add(weight)
        return self.graph.initializers[name]

    def _moved(self, path: str, metadata: dict[str, str]) -> dict[str, str]:
        """A node's metadata, with its layer paths changed to those of the block at `path`."""
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
    """Sort the nodes that lead to `value` into `own` and `shared`; True if `value` belongs to the block.

    A node belongs to the block if it depends on the block's input (`enters`) or on one of its weights.
    """
    node = value.producer()
    if value is enters or (node is None and str(value.name).startswith(prefix)):
        return True
    if node is None or node in shared:
        return False
    if node not in own:
        found = [_find_own(given, enters, prefix, own, shared) for given in node.inputs if given is not None]
        (own if any(found) else shared).add(node)
    return node in own
