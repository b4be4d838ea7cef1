"""Attention maps of the reference model, for `dinodeploy visualize --checkpoint`.

Shapes: H W pixels, h w patch grid, N heads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import MisuseError
from dinov3_ref.checkpoints import build_model, load_checkpoint
from dinov3_ref.models import DinoVisionTransformer, attention_maps


def reference_attention(checkpoint: Path, layer: int = -1) -> Callable[[FloatArray], FloatArray]:
    """A function: pixels [1,3,H,W] -> attention weights from CLS to the patches in block `layer`, [N,h,w].

    Raises MisuseError for a ConvNeXt or a block that does not exist, and what `load_checkpoint` raises.
    """
    model = build_model(load_checkpoint(checkpoint))
    if not isinstance(model, DinoVisionTransformer):
        raise MisuseError(f"{checkpoint} is a ConvNeXt, which has no attention; give the checkpoint of a ViT")
    if not -model.n_blocks <= layer < model.n_blocks:
        raise MisuseError(f"--layer {layer} does not exist; the model has blocks 0..{model.n_blocks - 1}")

    def attend(pixels: FloatArray) -> FloatArray:
        maps = attention_maps(model, torch.from_numpy(pixels), layer, patches_only=True)
        return maps[0].numpy()

    return attend
