"""Anchors: their places, and which of them propose nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinov3_ref.tasks.deimv2.queries import FAR, anchors_of

CPU = torch.device("cpu")


def test_places_and_sizes() -> None:
    logits, valid = anchors_of([(2, 3), (1, 2)], CPU)
    boxes = logits.double().sigmoid().numpy()
    assert valid.all()
    centres = [[x / 6, y / 4] for y in (1, 3) for x in (1, 3, 5)] + [[0.25, 0.5], [0.75, 0.5]]
    np.testing.assert_allclose(boxes[:, :2], centres, atol=1e-7)
    np.testing.assert_allclose(boxes[:, 2:], [[0.05] * 2] * 6 + [[0.1] * 2] * 2, atol=1e-7)


@pytest.mark.parametrize("n", [49, 50, 51, 80, 149, 150, 151, 250, 1250])
def test_an_anchor_at_the_edge_proposes_nothing(n: int) -> None:
    """As fractions: exactly 1 / 100 from an edge (the first of 50, the second of 150) is too near."""
    logits, valid = anchors_of([(1, n)], CPU)
    expected = [n < 100 * i + 50 < 99 * n for i in range(n)]
    assert valid.bool().tolist() == expected
    assert (logits[~valid.bool()] == FAR).all()


def test_an_anchor_as_large_as_the_image_proposes_nothing() -> None:
    _, valid = anchors_of([(4, 4)] * 6, CPU)
    assert valid.view(6, 16).all(dim=1).tolist() == [True] * 5 + [False]
    assert torch.isfinite(anchors_of([(4, 4)] * 6, CPU)[0]).all()
