"""Functions for both kinds of backbone, ViT and ConvNeXt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from dinov3_ref.models.config import DOWNSAMPLING, STAGES, STEM_STRIDE
from dinov3_ref.models.convnext import ConvNeXt
from dinov3_ref.models.vision_transformer import DinoVisionTransformer

Backbone = DinoVisionTransformer | ConvNeXt
AFTER = "text_head"  # name of a module with blocks of its own, after those of a ViT (dino.txt)
CHAINS = ("blocks", f"{AFTER}.blocks", "backbone.blocks")  # where a ViT or a text tower has its blocks


def named_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, residual block) in order of computation: `blocks.3`, or `stages.2.3` of a ConvNeXt.

    In dino.txt's towers also `text_head.blocks.1` and `backbone.blocks.3`.
    """
    if isinstance(model, ConvNeXt):
        for stage, in_stage in enumerate(model.stages):
            for index, block in enumerate(in_stage.children()):
                yield f"stages.{stage}.{index}", block
        return
    for chain in CHAINS:
        owner, _, name = chain.rpartition(".")
        chain_of_blocks: Any = getattr(getattr(model, owner, None) if owner else model, name, None)
        for index, block in enumerate(chain_of_blocks or ()):
            yield f"{chain}.{index}", block


def stride_of(model: Backbone) -> int:
    """Pixels from one patch token to the next; H and W of the input must be multiples of it."""
    return STEM_STRIDE * DOWNSAMPLING ** (STAGES - 1) if isinstance(model, ConvNeXt) else model.patch_size


def input_channels(model: Backbone) -> int:
    """Number of channels of the input images."""
    return model.in_chans if isinstance(model, ConvNeXt) else model.patch_embed.in_chans
