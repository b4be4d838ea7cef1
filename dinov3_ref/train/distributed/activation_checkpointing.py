"""Recompute blocks in the backward pass instead of keeping their activations (docs/spec.md 4.15).

Done by replacing a block's `forward`, so that module and parameter names stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from dinov3_ref.models import ConvNeXt, DinoVisionTransformer, named_blocks

# What costs most to recompute; its results are kept where not everything is recomputed.
KEPT_OPERATORS = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]


def checkpoint_activations(backbone: nn.Module, *, full: bool = False) -> None:
    """Make every block of `backbone` recompute itself: all of it with `full`, else all but KEPT_OPERATORS.

    Outputs and gradients stay the same, drop-path draws included. In training alone: without gradients a
    block runs as before. Raises TypeError for a module that is no backbone.
    """
    if not isinstance(backbone, DinoVisionTransformer | ConvNeXt):
        raise TypeError(f"{type(backbone).__name__} has no blocks to checkpoint; wanted a ViT or a ConvNeXt")
    for _, block in named_blocks(backbone):
        block.forward = _recomputed(block.forward, full)


class DinoViTWithCheckpoint(DinoVisionTransformer):
    """The seed document's class of this name, with tokens and RoPE, which its sketch leaves out (S60)."""

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
