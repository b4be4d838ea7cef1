"""DINO loss: hand-computed crossings of crops, and the centre of the softmax targets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dinov3_ref.loss import DINOLoss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_pair_by_hand() -> None:
    """Logits (0.1·ln 3, 0) at temperature 0.1 are probabilities (3/4, 1/4)."""
    student = torch.tensor([[[0.1 * math.log(3), 0.0]]])
    teacher = torch.tensor([[[0.5, 0.5]]])
    wanted = -(0.5 * math.log(3 / 4) + 0.5 * math.log(1 / 4))
    assert DINOLoss(2)(student, teacher).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("ignore_diagonal", [False, True])
@pytest.mark.parametrize(("crops_s", "crops_t"), [(2, 2), (8, 2), (3, 1)])
def test_every_pair_counts_once(crops_s: int, crops_t: int, ignore_diagonal: bool) -> None:
    student, teacher = draw(crops_s, 4, 6), draw(crops_t, 4, 6, seed=1).softmax(-1)
    terms = [
        -(teacher[t, b] * (student[s, b] / 0.1).log_softmax(-1)).sum()
        for s in range(crops_s)
        for t in range(crops_t)
        for b in range(4)
        if not (ignore_diagonal and s == t)
    ]
    got = DINOLoss(6)(student, teacher, ignore_diagonal=ignore_diagonal)
    torch.testing.assert_close(got, torch.stack(terms).mean())


def test_two_dimensions_are_one_crop() -> None:
    student, teacher = draw(4, 6), draw(4, 6, seed=1).softmax(-1)
    loss = DINOLoss(out_dim=6)
    assert torch.equal(loss(student, teacher), loss(student[None], teacher[None]))


def test_what_does_not_fit_is_named() -> None:
    loss = DINOLoss(6)
    with pytest.raises(ValueError, match=r"\[2, 4, 6\] do not fit teacher targets \[2, 3, 6\]"):
        loss(draw(2, 4, 6), draw(2, 3, 6))
    with pytest.raises(ValueError, match="no pair off the diagonal"):
        loss(draw(1, 4, 6), draw(1, 4, 6), ignore_diagonal=True)
    with pytest.raises(ValueError, match=r"shape \[6\]; wanted"):
        loss(draw(6), draw(6))


def test_half_precision_is_computed_in_fp32() -> None:
    student, teacher = draw(2, 4, 6).half() * 100, draw(2, 4, 6, seed=1).softmax(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = DINOLoss(6)(student, teacher)
    torch.testing.assert_close(got, DINOLoss(6)(student.float(), teacher), rtol=0, atol=0)


def test_gradient_is_student_minus_target() -> None:
    """d loss / d logits = (softmax - target) / (temperature · B) for one pair."""
    student = draw(1, 3, 5).double().requires_grad_()
    teacher = draw(1, 3, 5, seed=1).double().softmax(-1)
    DINOLoss(5)(student, teacher).backward()
    wanted = ((student / 0.1).softmax(-1) - teacher) / (0.1 * 3)
    torch.testing.assert_close(student.grad, wanted.detach())


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
    loss.update_center(torch.tensor([[float("nan"), 1.0]]))  # or one that is skipped
    torch.testing.assert_close(loss.center, torch.tensor([[0.37, 0.28]]))
    loss.init_weights()
    assert loss.center.tolist() == [[0.0, 0.0]]
    assert list(loss.state_dict()) == ["center"]


def test_sinkhorn_keeps_the_shape_and_takes_all_leading_dimensions_as_samples() -> None:
    scores = draw(2, 4, 6)
    loss = DINOLoss(6)
    got = loss.sinkhorn_knopp_teacher(scores, 0.07)
    torch.testing.assert_close(got.flatten(0, 1), loss.sinkhorn_knopp_teacher(scores.flatten(0, 1), 0.07))
