"""From an exported program to a clean ONNX graph: translate custom ops, attach weights, tidy, name.

The exporter's raw output carries a Transpose before every product, a tangle of one-element shape
arithmetic, and stack traces with the builder's paths. What leaves here is deterministic: the same model
gives the same bytes.
"""

from __future__ import annotations

import ast
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir
from torch import Tensor
from torch.export import ExportedProgram

from dinodeploy import __version__
from dinov3_ref.models import ConvNeXt, input_channels
from exporters.dialects import Dialect
from exporters.trace import repeat
from exporters.trace.fold import Weights
from exporters.trace.trace import TokenOutputs

INPUT_NAME, TOKEN_IDS = "pixels", "token_ids"
END = 2**63 - 1  # torch's word for "to the end"
FOLDED_ELEMENTS = 1024  # constant folding is for shape arithmetic; a weight must not be made here
WRAPPER = "model."  # the attribute of TokenOutputs that holds the model: a prefix of every weight name


def to_graph(program: ExportedProgram, module: TokenOutputs, weights: Weights, dialect: Dialect) -> ir.Model:
    """ONNX model of one image input and `module.output_names`, its weights still to be made.

    Every initializer is lazy: it is computed when its bytes are asked for, and then let go.
    """
    model = translate(program, dialect, (INPUT_NAME,), module.output_names)
    tidy(model, weights)
    _name_sizes(model.graph, module)
    finish(model, dialect)
    return model


def tidy(model: ir.Model, weights: Weights) -> None:
    """Attach lazy weights, and fold away the exporter's tangle of Transposes and shape arithmetic."""
    graph = model.graph
    repeat.expand_repeats(graph, WRAPPER)
    _attach_weights(graph, weights)
    _transpose_weights(graph)
    fold_constants_ir(
        model, onnx_shape_inference=False, input_size_limit=FOLDED_ELEMENTS, output_size_limit=FOLDED_ELEMENTS
    )
    _drop_whole_slices(graph)
    passes = (
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(size_limit=64),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    )
    for step in passes:
        step(model)


def finish(model: ir.Model, dialect: Dialect) -> None:
    """Readable names, and nothing of the machine that made it."""
    _name_nodes(model.graph)
    _forget_the_builder(model)
    model.ir_version = dialect.ir_version


def translate(
    program: ExportedProgram, dialect: Dialect, inputs: Sequence[str], outputs: Sequence[str]
) -> ir.Model:
    """torch.onnx with the dialect's table; its progress prints and deprecation warnings are kept quiet."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                optimize=False,
                opset_version=dialect.opset,
                custom_translation_table={**dialect.translations, **repeat.TRANSLATIONS},
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert exported is not None
    return exported.model


def _attach_weights(graph: ir.Graph, weights: Weights) -> None:
    """Give every initializer its lazily made tensor, under its name in the checkpoint; block after block."""
    for old_name in sorted(graph.initializers, key=_by_number):
        value = graph.initializers.pop(old_name)
        value.name = name = old_name.removeprefix(WRAPPER)
        assert value.shape is not None
        assert value.dtype is not None
        if name not in weights and value.const_value is not None:  # a tensor that is no parameter or buffer
            graph.initializers.add(value)
            continue
        make = partial(_to_ir, weights[name], name)
        value.const_value = ir.LazyTensor(make, dtype=value.dtype, shape=value.shape, name=name)
        graph.initializers.add(value)


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key by which `blocks.10` comes after `blocks.9`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _to_ir(make: Callable[[], Tensor], name: str) -> ir.TensorProtocol:
    return ir.tensor(make().detach().contiguous().numpy(), name=name)


def _transpose_weights(graph: ir.Graph) -> None:
    """Store a linear layer's weight as its product wants it, [in, out], and drop the Transpose."""
    made: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source in made:  # the layer is called twice
            node.outputs[0].replace_all_uses_with(made[source])
            graph.remove(node, safe=True)
            continue
        if (
            source is None
            or source.name not in graph.initializers
            or node.attributes["perm"].as_ints() != (1, 0)
        ):
            continue
        lazy = source.const_value
        assert isinstance(lazy, ir.LazyTensor)
        assert source.shape is not None
        shape = ir.Shape(tuple(reversed(source.shape.dims)))
        weight = ir.Value(name=f"{source.name}.T", shape=shape, type=source.type)
        weight.const_value = ir.LazyTensor(
            partial(_transposed, lazy), dtype=lazy.dtype, shape=shape, name=weight.name
        )
        graph.initializers.add(weight)
        made[source] = weight
        node.outputs[0].replace_all_uses_with(weight)
        graph.remove(node, safe=True)
    for source in made:
        if not source.uses():
            graph.initializers.pop(str(source.name))


def _transposed(lazy: ir.LazyTensor) -> ir.TensorProtocol:
    return ir.tensor(lazy.numpy().T.copy(), name=f"{lazy.name}.T")


def _drop_whole_slices(graph: ir.Graph) -> None:
    """Remove slices that take everything: what `x[:, :n]` says about its first dimension."""
    for node in list(graph):
        if node.op_type != "Slice" or node.outputs[0].is_graph_output():
            continue
        tensors = [ir.convenience.get_const_tensor(value) for value in node.inputs[1:] if value is not None]
        if len(tensors) != 4 or None in tensors:
            continue
        starts, ends, _, steps = (tensor.numpy() for tensor in tensors if tensor is not None)
        if not starts.any() and (ends >= END).all() and (steps == 1).all():
            node.outputs[0].replace_all_uses_with(node.inputs[0])  # type: ignore[arg-type]
            graph.remove(node, safe=True)


def _name_sizes(graph: ir.Graph, module: TokenOutputs) -> None:
    """Readable names for what is free: batch, height, width in; batch, rows, columns out."""
    model = module.model
    channels, dim = input_channels(model), model.embed_dim
    graph.inputs[0].shape = ir.Shape(["batch", channels, "height", "width"])
    shapes: dict[str, list[int | str]] = {
        "cls": [dim],
        "storage": [model.n_storage_tokens, dim],
        "extra": [module.own_tokens, dim],
        "image_embedding": [2 * dim],
        **{f"cls_{index}": [dim] for index in module.cls_layers},
    }
    if isinstance(model, ConvNeXt):
        for stage, width in enumerate(model.embed_dims[:-1]):
            shapes[f"layer_{stage}"] = [f"rows_{stage}", f"columns_{stage}", width]
    else:
        shapes["attention"] = [model.num_heads, "rows", "columns"]
    for output in graph.outputs:
        output.shape = ir.Shape(["batch", *shapes.get(str(output.name), ["rows", "columns", dim])])


def _name_nodes(graph: ir.Graph) -> None:
    """Name nodes and their values by module and operator: `blocks.3.attn.q/MatMul`, `blocks.3/Add.1`.

    Inner values lose the exporter's symbolic shapes, whose names mean nothing to a reader.
    """
    seen: Counter[str] = Counter()
    kept = {value.name for value in graph.outputs}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(repeat.SCOPES, "['', '']"))
        module = scopes[-2].removeprefix(WRAPPER) if len(scopes) > 1 else ""
        if not module or module.startswith("_"):  # the wrapper itself, or the exporter's own bookkeeping
            module = "tokens"
        base = f"{module}/{node.op_type}"
        node.name = f"{base}.{seen[base]}" if seen[base] else base
        seen[base] += 1
        for index, value in enumerate(node.outputs):
            if value.name not in kept:
                value.name = f"{node.name}:{index}"
                value.shape = None
    for index, name in enumerate([name for name in graph.initializers if name.startswith("val_")]):
        value = graph.initializers.pop(name)
        value.name = f"const.{index}"
        graph.initializers.add(value)


def _forget_the_builder(model: ir.Model) -> None:
    """Drop what the exporter noted for itself: stack traces with paths, its names for things, its name."""
    common.ClearMetadataAndDocStringPass()(model)
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values()]
    for value in (*values, *(output for node in graph for output in node.outputs)):
        value.metadata_props.clear()
    model.producer_name, model.producer_version = "dinodeploy", __version__
