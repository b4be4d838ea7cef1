"""KoLeo loss: points on a circle by hand, the rest against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dinov3_ref.loss import KoLeoLoss, KoLeoLossDistributed


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def on_circle(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees).double().deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def chord(degrees: float) -> float:
    return 2 * math.sin(math.radians(degrees) / 2)


def test_three_points_on_a_circle_by_hand() -> None:
    """0°, 30°, 90°: the nearest neighbours are 30, 30 and 60 degrees away; lengths do not matter."""
    x = on_circle(0, 30, 90) * torch.tensor([[1.0], [5.0], [0.1]])
    wanted = -(2 * math.log(chord(30)) + math.log(chord(60))) / 3
    assert KoLeoLoss()(x).item() == pytest.approx(wanted, rel=1e-6)


def test_two_neighbours_by_hand() -> None:
    x = on_circle(0, 30, 90)
    chords = [30, 90, 30, 60, 60, 90]
    wanted = -sum(math.log(chord(c)) for c in chords) / 6
    assert KoLeoLoss(topk=2)(x).item() == pytest.approx(wanted, rel=1e-6)
    assert KoLeoLossDistributed(topk=2)(x).item() == pytest.approx(wanted, rel=1e-6)


def test_against_loops() -> None:
    x = draw(9, 5)
    unit = x / x.norm(dim=1, keepdim=True)
    nearest = [min((unit[i] - unit[j]).norm() for j in range(9) if j != i) for i in range(9)]
    wanted = -torch.stack(nearest).log().mean()
    torch.testing.assert_close(KoLeoLoss()(x), wanted)
    torch.testing.assert_close(KoLeoLossDistributed()(x), wanted)


def test_neighbours_come_from_the_same_group() -> None:
    x = draw(12, 5)
    wanted = torch.stack([KoLeoLoss()(part) for part in x.split(4)]).mean()
    torch.testing.assert_close(KoLeoLossDistributed(loss_group_size=4)(x), wanted)
    assert not torch.isclose(wanted, KoLeoLoss()(x), rtol=1e-3)


def test_equal_rows_have_a_finite_loss_and_gradient() -> None:
    x = draw(1, 5).expand(3, 5).clone().requires_grad_()
    loss = KoLeoLoss()(x)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(math.sqrt(5) * 1e-8 + 1e-8), rel=1e-4)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_gradient_pushes_neighbours_apart() -> None:
    x = on_circle(0, 10, 180).requires_grad_()
    KoLeoLoss()(x).backward()
    assert x.grad is not None
    moved = (x - 0.01 * x.grad).detach()
    turned = torch.rad2deg(torch.atan2(moved[:2, 1], moved[:2, 0]))
    assert turned[1] - turned[0] > 10.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(dtype: torch.dtype) -> None:
    """The published code uses the input's dtype, where 1 - cosine of near neighbours has two digits."""
    x = draw(9, 5).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = KoLeoLoss()(x)
    assert got.dtype == torch.float32
    assert torch.equal(got, KoLeoLoss()(x.float()))


def test_too_few_rows_and_wrong_group_sizes() -> None:
    with pytest.raises(ValueError, match="needs 1 neighbours for each of 1 rows"):
        KoLeoLoss()(draw(1, 5))
    with pytest.raises(ValueError, match="groups of 5 rows do not divide a batch of 12"):
        KoLeoLossDistributed(loss_group_size=5)(draw(12, 5))
