"""Record the largest input and output of every linear layer and convolution on the golden photographs.

A 16-bit recipe uses these ranges to scale layers whose values come near the type's limit (`recipes.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from dinov3_ref.layers import LayerScale
from dinov3_ref.models import named_blocks
from dinov3_ref.models.convnext import Block


@dataclass(frozen=True)
class LinearRange:
    """Largest magnitudes seen at one linear layer or convolution of the exported graph."""

    largest_input: float
    largest_output: float


# convolutions that a recipe changes and no block holds
OUTSIDE_BLOCKS = re.compile(r"downsample_layers\.[\d.]+|(backbone\.)?patch_embed\.proj")
# layer of a block -> the LayerScale that is folded into it
GAINS = {
    "attn.proj": "ls1",
    "mlp.fc2": "ls2",
    "mlp.w3": "ls2",
    "attention.proj": "ls1",
    "feed_forward.fc2": "ls2",
}


@contextmanager
def watch_linears(model: nn.Module) -> Iterator[dict[str, LinearRange]]:
    """While open, every forward of `model` updates the ranges, keyed by module path in the meta copy.

    q, k and v are the thirds of qkv. For proj, fc2, w3 and pwconv2 the output after LayerScale counts if it
    is larger, because LayerScale is folded into them.
    """
    ranges: dict[str, LinearRange] = {}
    with ExitStack() as hooks:
        for path, block in named_blocks(model):
            for name, module in block.named_modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    hook = _hook(ranges, f"{path}.{name}", partial(_largest_gain, block, name))
                    hooks.enter_context(module.register_forward_hook(hook))
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d) and OUTSIDE_BLOCKS.fullmatch(name):
                hooks.enter_context(module.register_forward_hook(_hook(ranges, name, lambda: 1.0)))
        yield ranges


def _largest_gain(block: nn.Module, name: str) -> float:
    """Largest LayerScale gain that is folded into the layer `name` of a block, at least 1."""
    if isinstance(block, Block):
        return max(1.0, _largest(block.gamma)) if name == "pwconv2" and block.gamma is not None else 1.0
    scale = GAINS.get(name)
    module = getattr(block, scale) if scale else None
    return max(1.0, _largest(module.gamma)) if isinstance(module, LayerScale) else 1.0


def _hook(ranges: dict[str, LinearRange], path: str, gain: Callable[[], float]) -> Any:
    """Forward hook that records a layer.

    `gain` is called while the block runs: a streamed block has no weights before.
    """
    names = [f"{path.removesuffix('qkv')}{part}" for part in "qkv"] if path.endswith(".qkv") else [path]

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        largest_in, largest_gain = _largest(inputs[0]), gain()
        parts = output.chunk(len(names), dim=-1) if len(names) > 1 else (output,)
        for name, part in zip(names, parts, strict=True):
            seen = ranges.get(name, LinearRange(0.0, 0.0))
            ranges[name] = LinearRange(
                max(seen.largest_input, largest_in), max(seen.largest_output, largest_gain * _largest(part))
            )

    return record


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max())
