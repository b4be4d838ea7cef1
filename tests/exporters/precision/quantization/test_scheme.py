"""Smoothing scales by hand."""

from __future__ import annotations

import torch

from exporters.precision.quantization.scheme import smoothing_scale


def test_smoothing_by_hand() -> None:
    """16^0.5 / (1/4)^0.5 = 8 where the median channel's is 1; a channel that is always zero keeps 1."""
    channel_max = torch.tensor([16.0, 1.0, 1.0, 0.0])
    weight = torch.tensor([[0.25, 1.0, 1.0, 1.0]])
    assert smoothing_scale(channel_max, weight, 0.5).tolist() == [8.0, 1.0, 1.0, 1.0]
