"""Activation checkpointing: recompute blocks in the backward pass to save memory (docs/spec.md 4.15).

Replaces each block's `forward`, so module and parameter names stay the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from dinov3_ref.models import ConvNeXt, DinoVisionTransformer, named_blocks

# The operators that cost most to recompute: selective checkpointing keeps their results.
KEPT_OPERATORS = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]


def checkpoint_activations(backbone: nn.Module, *, full: bool = False) -> None:
    """Make every block of `backbone` recompute its activations: all with `full`, else all but KEPT_OPERATORS.

    Outputs, gradients and drop-path draws stay the same. Without gradients, blocks run as before. Raises
    TypeError for a module that is not a backbone.
    """
    if not isinstance(backbone, DinoVisionTransformer | ConvNeXt):
        raise TypeError(f"{type(backbone).__name__} has no blocks to checkpoint; wanted a ViT or a ConvNeXt")
    for _, block in named_blocks(backbone):
        block.forward = _recomputed(block.forward, full)


class DinoViTWithCheckpoint(DinoVisionTransformer):
    """A ViT with full activation checkpointing (docs/development/seed.md S60)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        checkpoint_activations(self, full=True)


def _recomputed(forward: Callable[..., Any], full: bool) -> Callable[..., Any]:
    options: dict[str, Any] = {"use_reentrant": False}
    if not full:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, KEPT_OPERATORS)

    def run(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, **options, **named)

    return run
