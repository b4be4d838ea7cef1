"""The pyramid's three maps have 1/8, 1/16 and 1/32 of the image, rounded up."""

from __future__ import annotations

import torch

from dinov3_ref.tasks.deimv2.adapter import SpatialTuningAdapter


def test_scales() -> None:
    maps = SpatialTuningAdapter(4)(torch.zeros(1, 3, 112, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 14, 12), (16, 7, 6), (16, 4, 3)]
