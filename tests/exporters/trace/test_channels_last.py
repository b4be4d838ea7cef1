"""The channels-last ConvNeXt computes what the reference computes."""

from __future__ import annotations

from typing import Any

import torch

from dinov3_ref.checkpoints import build_model, random_checkpoint
from exporters.trace.channels_last import ChannelsLastConvNeXt
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_convnext


def test_maps_equal_the_reference() -> None:
    checkpoint = random_checkpoint(tiny_convnext(depths=(1, 1, 1, 1)))
    model, other = (build_model(checkpoint) for _ in range(2))
    copy: Any = ChannelsLastConvNeXt(other)  # type: ignore[arg-type]
    x = pixels(["coffee"], 64, 96)
    assert copy.any_size
    with torch.no_grad():
        for got, wanted in zip(copy.channels_last_maps(x), model.channels_last_maps(x), strict=True):  # type: ignore[operator, union-attr]
            assert got.shape == wanted.shape
            assert torch.dist(got, wanted) / wanted.norm() < 1e-6
