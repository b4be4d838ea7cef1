"""Gram loss: values by hand, and the options for negative similarities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinov3_ref.errors import ConfigError
from dinov3_ref.loss import GramLoss

KEEP = {"remove_neg": False}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_two_patches_by_hand() -> None:
    """Off the diagonal cosines 0.6 and 0, on it 1: mean of (0, 0.36, 0.36, 0). Without norm 4 and 9 on it."""
    student = torch.tensor([[[2.0, 0.0], [1.8, 2.4]]])
    teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert GramLoss()(student, teacher).item() == pytest.approx(0.18, rel=1e-6)
    plain = GramLoss(apply_norm=False)(student, teacher)  # (4-1)², 3.6² twice, (9-1)²
    assert plain.item() == pytest.approx((9 + 2 * 3.6**2 + 64) / 4, rel=1e-6)


def cosine_pairs() -> tuple[Tensor, Tensor]:
    """Three unit patches: student pairs (0.6, -0.8, -1·…), teacher pairs differ in sign here and there."""
    student = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [-0.8, 0.6]]])  # 0.6, -0.8, 0
    teacher = torch.tensor([[[1.0, 0.0], [-0.6, 0.8], [-0.8, -0.6]]])  # -0.6, -0.8, 0
    return student, teacher


@pytest.mark.parametrize(
    ("options", "off_diagonal"),
    [
        ({"remove_neg": False}, [1.2**2, 0, 0]),
        ({"remove_neg": True}, [0.6**2, 0, 0]),  # 0.6 against 0, 0 against 0
        ({"remove_neg": False, "remove_only_teacher_neg": True}, [0.6**2, 0, 0]),
    ],
)
def test_negatives_by_hand(options: dict[str, bool], off_diagonal: list[float]) -> None:
    got = GramLoss(**options)(*cosine_pairs())
    assert got.item() == pytest.approx(2 * sum(off_diagonal) / 9, rel=1e-5)


def test_remove_only_teacher_negatives() -> None:
    """Student -0.8 against teacher +0.6 keeps its error of 1.4; remove_neg sees 0.6."""
    student, teacher = torch.tensor([[[1.0, 0.0], [-0.8, 0.6]]]), torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    only_teacher = GramLoss(remove_neg=False, remove_only_teacher_neg=True)
    assert only_teacher(student, teacher).item() == pytest.approx(1.4**2 / 2, rel=1e-5)
    assert GramLoss()(student, teacher).item() == pytest.approx(0.6**2 / 2, rel=1e-5)


def test_both_removals_are_refused() -> None:
    with pytest.raises(ConfigError, match="choose one"):
        GramLoss(remove_neg=True, remove_only_teacher_neg=True)


def test_image_and_batch_level() -> None:
    student, teacher = draw(3, 7, 5), draw(3, 7, 5, seed=1)
    within = torch.stack([GramLoss(**KEEP)(s[None], t[None]) for s, t in zip(student, teacher, strict=True)])
    torch.testing.assert_close(GramLoss(**KEEP)(student, teacher), within.mean())
    across = GramLoss(img_level=False, **KEEP)(student, teacher)
    torch.testing.assert_close(across, GramLoss(**KEEP)(student.view(1, 21, 5), teacher.view(1, 21, 5)))
    torch.testing.assert_close(
        across, GramLoss(**KEEP)(student.view(21, 5), teacher.view(21, 5), img_level=False)
    )
    with pytest.raises(ValueError, match=r"\[21, 5\]; wanted \[B,P,D\]"):
        GramLoss()(student.view(21, 5), teacher.view(21, 5))


def test_equal_directions_have_no_loss() -> None:
    x = draw(2, 7, 5)
    assert GramLoss(**KEEP)(x, 3 * x).item() < 1e-12


def test_half_precision_is_computed_in_fp32() -> None:
    student, teacher = draw(2, 7, 5).half(), draw(2, 7, 5, seed=1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = GramLoss()(student, teacher)
    assert torch.equal(got, GramLoss()(student.float(), teacher.float()))
