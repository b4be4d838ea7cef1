"""Functions for both kinds of backbone, ViT and ConvNeXt."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from dinov3_ref.models.config import DOWNSAMPLING, STAGES, STEM_STRIDE
from dinov3_ref.models.convnext import ConvNeXt
from dinov3_ref.models.vision_transformer import DinoVisionTransformer

Backbone = DinoVisionTransformer | ConvNeXt


def named_blocks(model: Backbone) -> Iterator[tuple[str, nn.Module]]:
    """(path, residual block) in order of computation: `blocks.3`, or `stages.2.3` of a ConvNeXt."""
    if isinstance(model, ConvNeXt):
        for stage, blocks in enumerate(model.stages):
            for index, block in enumerate(blocks.children()):
                yield f"stages.{stage}.{index}", block
    else:
        for index, block in enumerate(model.blocks):
            yield f"blocks.{index}", block


def stride_of(model: Backbone) -> int:
    """Pixels from one patch token to the next; H and W of the input must be multiples of it."""
    return STEM_STRIDE * DOWNSAMPLING ** (STAGES - 1) if isinstance(model, ConvNeXt) else model.patch_size


def input_channels(model: Backbone) -> int:
    """Number of channels of the input images."""
    return model.in_chans if isinstance(model, ConvNeXt) else model.patch_embed.in_chans
