"""Boxes from distributions, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinov3_ref.tasks.deimv2.boxes import (
    QualityEstimator,
    bin_offsets,
    expected_offsets,
    inverse_sigmoid,
    move_sides,
)


@pytest.mark.parametrize(("up", "scale"), [(0.5, 4.0), (0.7, 8.0)])
def test_offsets_of_the_bins(up: float, scale: float) -> None:
    """arXiv:2410.13842, equation 3, with a = `up` and 1/c = `scale`."""
    found = bin_offsets(32, torch.tensor([up]), torch.tensor([scale])).double().numpy()
    base = (up * scale + 1) ** (1 / 15)
    inner = [np.sign(n - 16) * (base ** abs(n - 16) - 1) for n in range(1, 32)]
    np.testing.assert_allclose(found, [-2 * up * scale, *inner, 2 * up * scale], rtol=1e-5, atol=1e-7)


def test_no_offset_leaves_a_box_as_it_is() -> None:
    box = torch.tensor([[[0.4, 0.6, 0.2, 0.3]]])
    torch.testing.assert_close(move_sides(box, torch.zeros(1, 1, 4), torch.tensor([4.0])), box)


def test_sides_move_by_a_share_of_the_box() -> None:
    """Left by 1 and bottom by 2 of a quarter of the size."""
    box, offsets = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]]), torch.tensor([[[1.0, 0.0, 0.0, 2.0]]])
    moved = move_sides(box, offsets, torch.tensor([4.0]))
    torch.testing.assert_close(moved, torch.tensor([[[0.475, 0.6, 0.25, 0.6]]]))


def test_expected_offset_of_a_certain_distribution() -> None:
    offsets = torch.arange(-2.0, 3.0)
    logits = torch.full((1, 1, 4, 5), -100.0)
    for side, index in enumerate((0, 4, 2, 3)):
        logits[0, 0, side, index] = 100.0
    found = expected_offsets(logits.flatten(2), offsets)
    torch.testing.assert_close(found, torch.tensor([[[-2.0, 2.0, 0.0, 1.0]]]))


def test_inverse_sigmoid_is_finite_at_both_ends() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 1.0])
    found = inverse_sigmoid(x)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[1:3].sigmoid(), x[1:3])


def test_quality_reads_the_largest_shares_of_each_side() -> None:
    estimator = QualityEstimator(2, 8, 1)
    with torch.no_grad():
        estimator.reg_conf.layers[0].weight.zero_()[0, 2] = 1.0  # the mean of the first side's two
        estimator.reg_conf.layers[0].bias.zero_()
    sides = torch.zeros(1, 1, 4, 4)
    sides[0, 0, 0, 1] = 3.0
    share = np.exp(3.0) / (np.exp(3.0) + 3)
    expected = (share + (1 - share) / 3) / 2
    found = estimator(torch.zeros(1, 1, 3), sides.flatten(2))
    np.testing.assert_allclose(found.detach().numpy(), np.full((1, 1, 3), expected), rtol=1e-5)
