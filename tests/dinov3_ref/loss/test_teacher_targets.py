"""Targets from the teacher's scores: centring and softmax, Sinkhorn-Knopp, the centre."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dinov3_ref.loss import DINOLoss, sinkhorn_knopp


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


def scores(samples: int = 12, prototypes: int = 5, scale: float = 0.1) -> Tensor:
    return torch.randn(samples, prototypes, generator=torch.Generator().manual_seed(0)) * scale


def published(scores_NK: Tensor, temperature: float, iterations: int) -> Tensor:
    """docs/spec.md 4.4 literally, in fp64: exp without subtracting a maximum, and all divisions."""
    q = torch.exp(scores_NK.double() / temperature).T
    prototypes, samples = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(dim=1, keepdim=True)
        q /= prototypes
        q /= q.sum(dim=0, keepdim=True)
        q /= samples
    return (q * samples).T


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("temperature", [0.04, 0.07])
def test_it_equals_the_published_form(temperature: float, iterations: int) -> None:
    got = sinkhorn_knopp(scores(), temperature, iterations)
    assert got.dtype == torch.float32
    torch.testing.assert_close(
        got.double(), published(scores(), temperature, iterations), rtol=1e-5, atol=1e-7
    )


def test_two_samples_two_prototypes_by_hand() -> None:
    """exp = [[2, 1], [1, 1]]: prototypes sum to 3 and 2, so [[2/3, 1/2], [1/3, 1/2]]; rows to 7/6, 5/6."""
    got = sinkhorn_knopp(torch.tensor([[2.0, 1.0], [1.0, 1.0]]).log(), 1.0, 1)
    torch.testing.assert_close(got, torch.tensor([[4 / 7, 3 / 7], [2 / 5, 3 / 5]]))


def test_samples_sum_to_one_and_prototypes_become_balanced() -> None:
    targets = sinkhorn_knopp(scores(), 0.07, 3)
    torch.testing.assert_close(targets.sum(1), torch.ones(12))
    assert (targets.sum(0) / (12 / 5) - 1).abs().max() < 0.25  # measured 0.21
    many = sinkhorn_knopp(scores(), 0.07, 100)
    torch.testing.assert_close(many.sum(0), torch.full((5,), 12 / 5), rtol=1e-4, atol=0)


def test_scores_where_exp_overflows() -> None:
    """At 10 / 0.04 = 250 the published form gives inf and then NaN already in fp32."""
    wild = scores(scale=10.0)
    assert not torch.exp(wild / 0.04).isfinite().all()
    got = sinkhorn_knopp(wild, 0.04)
    assert got.isfinite().all()
    torch.testing.assert_close(got.double(), published(wild, 0.04, 3), rtol=1e-3, atol=1e-6)
    shifted = sinkhorn_knopp(wild + 1000, 0.04)  # adding a constant to all scores changes nothing
    torch.testing.assert_close(shifted, got, rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_give_fp32_targets_also_under_autocast(dtype: torch.dtype) -> None:
    low_precision = scores().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = sinkhorn_knopp(low_precision, 0.07)
    assert torch.equal(got, sinkhorn_knopp(low_precision.float(), 0.07))


def test_no_samples_and_no_iterations() -> None:
    assert sinkhorn_knopp(torch.zeros(0, 5), 0.07).shape == (0, 5)
    with pytest.raises(ValueError, match="n_iterations is 0"):
        sinkhorn_knopp(scores(), 0.07, 0)


def test_no_gradient() -> None:
    assert not sinkhorn_knopp(scores().requires_grad_(), 0.07).requires_grad
