"""A whole model as it is traced: named outputs, backbones replaced by their folded copies.

The copy holds no weights of a backbone: they are a table of functions, by name (`trace/fold.py`). Other
layers keep their own tensors, shared with the module.

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import lcm

from torch import Tensor, nn

from dinodeploy.errors import MisuseError
from dinov3_ref.models import Backbone, ConvNeXt, DinoVisionTransformer, stride_of
from exporters.bundle.options import ExportOptions
from exporters.trace.fold import FOLDS, Weights, make_meta_copy

Log = Callable[[str], None]


def refuse_bytes(options: ExportOptions) -> None:
    """Raises MisuseError: mean and std have no one convolution to go into."""
    if options.input != "float32":
        raise MisuseError(f"--input {options.input} is for backbones; this is a whole model: leave it out")


class NamedOutputs(nn.Module):
    """pixels [B,3,H,W] -> the tensors of `output_names`, in order."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.model = model
        self.output_names = tuple(names)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        made = self.model(pixels)
        return (made,) if isinstance(made, Tensor) else tuple(made)


def backbones_of(module: nn.Module) -> dict[str, Backbone]:
    """Module path -> each backbone of ours inside, once."""
    return {
        path: found
        for path, found in module.named_modules()
        if isinstance(found, (DinoVisionTransformer, ConvNeXt))
    }


def stride_of_all(backbones: Collection[Backbone]) -> int:
    """Pixels of which both sides of the input must be a multiple."""
    return lcm(*(stride_of(one) for one in backbones))


@dataclass(frozen=True)
class TracedCopy:
    """A module to trace, its backbones by path, and the table of all weights by path."""

    module: nn.Module
    backbones: Mapping[str, Backbone]
    weights: Weights


def make_traced_copy(module: nn.Module, folds: Collection[str] = FOLDS) -> TracedCopy:
    """Copy `module` for tracing. Tensors outside backbones are the module's own, not copies.

    Raises ExportError for a backbone that cannot become a graph.
    """
    found = backbones_of(module)
    memo: dict[int, object] = {id(tensor): tensor for tensor in tensors_of(module).values()}
    weights: Weights = {
        name: partial(_detached, tensor)
        for name, tensor in tensors_of(module).items()
        if not any(not path or name.startswith(f"{path}.") for path in found)
    }
    copies: dict[str, Backbone] = {}
    for path, backbone in found.items():
        traced, table = make_meta_copy(backbone, folds)
        # memory that is not written to is not taken: sizes and device are all that tracing needs
        copies[path] = memo[id(backbone)] = traced.to_empty(device="cpu")
        weights |= {f"{path}.{name}" if path else name: make for name, make in table.items()}
    return TracedCopy(copy.deepcopy(module, memo).eval(), copies, weights)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by path; one with two paths under both."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()
