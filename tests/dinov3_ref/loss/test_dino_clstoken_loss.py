"""DINO loss: values by hand, pairs of crops, gradient."""

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


def test_wrong_shapes() -> None:
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
