"""Functions for both kinds of backbone."""

from __future__ import annotations

import torch

from dinov3_ref.models import ConvNeXt, DinoVisionTransformer, input_channels, named_blocks, stride_of
from tests.support.tiny_models import tiny_config, tiny_convnext


def test_blocks_stride_and_channels() -> None:
    with torch.device("meta"):
        vit = DinoVisionTransformer(**tiny_config(depth=2, patch_size=8, in_chans=4).kwargs())
        convnext = ConvNeXt(**tiny_convnext(depths=(1, 2, 1, 1)).kwargs())
    assert [path for path, _ in named_blocks(vit)] == ["blocks.0", "blocks.1"]
    paths = ["stages.0.0", "stages.1.0", "stages.1.1", "stages.2.0", "stages.3.0"]
    assert [path for path, _ in named_blocks(convnext)] == paths
    assert all(convnext.get_submodule(path) is block for path, block in named_blocks(convnext))
    assert (stride_of(vit), stride_of(convnext)) == (8, 32)
    assert (input_channels(vit), input_channels(convnext)) == (4, 3)
