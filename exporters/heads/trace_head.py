"""Trace a head to its own ONNX graph, with named inputs and outputs, dynamic batch and patch grid.

Shapes: B batch, R storage tokens, h w patch grid, D embed_dim.
"""

from __future__ import annotations

import copy
import warnings
from functools import partial

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dinodeploy.bundle.manifest import ModelFacts
from dinodeploy.errors import ExportError, MisuseError, reason_of
from dinov3_ref.heads import Head
from exporters.dialects import Dialect
from exporters.graph.graph import finish, tidy, translate
from exporters.trace.fold import Weights
from exporters.trace.trace import TRACED_BATCH, TRACED_GRID

SCOPE = "task_head"  # prefix of all names in a head: no backbone has such a module
MIN_GRID = 4  # smallest traced grid side: torch specialises graphs for sides of length one


class _Scoped(nn.Module):
    """The head as an attribute, so that the names of its tensors and nodes start with it."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.task_head = head

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        made = self.task_head(*features)
        return (made,) if isinstance(made, Tensor) else tuple(made)


def head_graph(head: Head, facts: ModelFacts, dialect: Dialect) -> ir.Model:
    """The head in ONNX; weights are computed when the graph is written.

    Raises MisuseError when it does not fit the features of the model, or its outputs differ from those it
    declares; ExportError when it cannot be traced.
    """
    module = _Scoped(_copy_to_meta(head))
    try:
        program = _trace(module, head, facts)
        model = translate(program, dialect, head.inputs, tuple(head.outputs))
        tidy(model, _weights(head))
    except MisuseError:
        raise
    except Exception as error:  # torch.export and torch.onnx raise any exception
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise ExportError(f"the head {type(head).__name__} cannot be traced: {reason}") from error
    finish(model, dialect)
    for output in model.graph.outputs:
        output.shape = ir.Shape(head.outputs[str(output.name)])
    return model


def _copy_to_meta(head: Head) -> Head:
    """A meta copy in eval mode: its tensors take no memory, and no values can become constants."""
    memo: dict[int, object] = {}
    for parameter in head.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in head.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(head, memo).eval()


def _weights(head: Head) -> Weights:
    tensors = {**dict(head.named_parameters()), **dict(head.named_buffers())}
    return {f"{SCOPE}.{name}": partial(_as_is, tensor) for name, tensor in tensors.items()}


def _as_is(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


def _trace(module: _Scoped, head: Head, facts: ModelFacts) -> ExportedProgram:
    batch, grid = Dim("batch"), {1: Dim("rows", min=MIN_GRID), 2: Dim("columns", min=MIN_GRID)}
    features, sizes = [], []
    for name in head.inputs:
        shape = feature_shape(name, facts)
        features.append(torch.empty(TRACED_BATCH, *shape, device="meta"))
        sizes.append({0: batch, **(grid if len(shape) == 3 else {})})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch
        _check_outputs(module(*features), head)
        return torch.export.export(module, tuple(features), dynamic_shapes=(tuple(sizes),), strict=False)


def feature_shape(name: str, facts: ModelFacts) -> tuple[int, ...]:
    """Shape of one row of a backbone output at the traced grid."""
    if name.startswith("cls"):
        return (facts.embed_dim,)
    if name == "storage":
        return (facts.storage_tokens, facts.embed_dim)
    return (*TRACED_GRID, facts.embed_dim)


def _check_outputs(made: tuple[Tensor, ...], head: Head) -> None:
    """Raises MisuseError where the outputs differ from those that the head declares."""
    if len(made) != len(head.outputs):
        raise MisuseError(f"the head gives {len(made)} outputs and declares {len(head.outputs)}")
    for (name, wanted), output in zip(head.outputs.items(), made, strict=True):
        fits = len(output.shape) == len(wanted) and all(
            isinstance(want, str) or want == size for want, size in zip(wanted, output.shape, strict=True)
        )
        if not fits or output.shape[0] != TRACED_BATCH or output.dtype != torch.float32:
            raise MisuseError(
                f"head output {name!r} is {output.dtype} {list(output.shape)} where the head declares "
                f"float32 {list(wanted)}; fix its `outputs`"
            )
