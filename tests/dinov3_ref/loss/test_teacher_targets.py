"""Targets from the teacher's scores: centring and softmax, Sinkhorn-Knopp, the centre."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dinov3_ref.loss import DINOLoss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_softmax_centring_by_hand() -> None:
    """Centre (1, 0): scores (1 + 0.04·ln 3, 0) at temperature 0.04 become (3/4, 1/4)."""
    loss = DINOLoss(2)
    loss.center.copy_(torch.tensor([[1.0, 0.0]]))
    targets = loss.softmax_center_teacher(torch.tensor([[1 + 0.04 * math.log(3), 0.0]]), 0.04)
    torch.testing.assert_close(targets, torch.tensor([[0.75, 0.25]]), rtol=1e-5, atol=0)
    assert (
        DINOLoss(2).softmax_center_teacher(torch.zeros(1, 2, dtype=torch.float16), 0.04).dtype
        == torch.float32
    )


def test_the_centre_moves_by_a_tenth_of_the_way() -> None:
    loss = DINOLoss(2)
    loss.update_center(torch.tensor([[[2.0, 4.0]], [[4.0, 0.0]]]))  # mean (3, 2)
    torch.testing.assert_close(loss.center, torch.tensor([[0.3, 0.2]]))
    loss.update_center(torch.tensor([[[1.0, 1.0]]]))
    torch.testing.assert_close(loss.center, torch.tensor([[0.37, 0.28]]))
    loss.update_center(torch.zeros(0, 2))  # a step without a masked patch
    loss.update_center(torch.tensor([[float("nan"), 1.0]]))  # a step that is skipped
    torch.testing.assert_close(loss.center, torch.tensor([[0.37, 0.28]]))
    loss.init_weights()
    assert loss.center.tolist() == [[0.0, 0.0]]
    assert list(loss.state_dict()) == ["center"]


def test_sinkhorn_treats_all_leading_dimensions_as_samples() -> None:
    scores = draw(2, 4, 6)
    loss = DINOLoss(6)
    got = loss.sinkhorn_knopp_teacher(scores, 0.07)
    torch.testing.assert_close(got.flatten(0, 1), loss.sinkhorn_knopp_teacher(scores.flatten(0, 1), 0.07))
