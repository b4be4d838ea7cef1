"""iBOT loss: means over patches and images, by hand and against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dinov3_ref.errors import ConfigError
from dinov3_ref.loss import iBOTPatchLoss
from dinov3_ref.loss.ibot_patch_loss import weights_of_masks

# Four images of five patches; 2, 0, 1 and 3 patches are masked.
MASKS = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 1, 1, 0]], dtype=torch.bool)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher * (student / 0.1).log_softmax(-1)).sum(-1)


@pytest.fixture
def student() -> Tensor:
    return draw(4, 5, 6)


@pytest.fixture
def teacher() -> Tensor:
    return draw(4, 5, 6, seed=1).softmax(-1)


def test_images_have_equal_weight(student: Tensor, teacher: Tensor) -> None:
    terms = entropy(student, teacher)
    images = [terms[0, :2].mean(), terms[2, 4], terms[3, 1:4].mean()]
    wanted = torch.stack(images).sum() / 4  # the image without masked patches counts as 0
    torch.testing.assert_close(iBOTPatchLoss(6)(student, teacher, MASKS), wanted)


def test_forward_masked_equals_forward(student: Tensor, teacher: Tensor) -> None:
    loss = iBOTPatchLoss(6)
    wanted = loss(student, teacher, MASKS)
    got = loss.forward_masked(student[MASKS], teacher[MASKS], MASKS)
    torch.testing.assert_close(got, wanted)
    weights = torch.tensor([1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3])
    torch.testing.assert_close(weights_of_masks(MASKS), weights)
    got = loss.forward_masked(student[MASKS], teacher[MASKS], MASKS, masks_weight=weights)
    torch.testing.assert_close(got, wanted)


def test_padding_rows_do_not_count(student: Tensor, teacher: Tensor) -> None:
    loss = iBOTPatchLoss(6)
    pad = torch.cat([student[MASKS], draw(3, 6)]), torch.cat([teacher[MASKS], draw(3, 6)])
    weights = torch.cat([weights_of_masks(MASKS), torch.ones(3)])
    got = loss.forward_masked(*pad, MASKS, n_masked_patches=6, masks_weight=weights)
    torch.testing.assert_close(got, loss(student, teacher, MASKS))


def test_one_patch_by_hand() -> None:
    """Probabilities (3/4, 1/4) against target (1, 0), in one of two images."""
    student, teacher = torch.tensor([[0.1 * math.log(3), 0.0]]), torch.tensor([[1.0, 0.0]])
    masks = torch.tensor([[True, False], [False, False]])
    got = iBOTPatchLoss(2).forward_masked(student, teacher, masks)
    assert got.item() == pytest.approx(-math.log(3 / 4) / 2, rel=1e-6)


def test_without_masks_it_is_the_mean_over_tokens(student: Tensor, teacher: Tensor) -> None:
    loss = iBOTPatchLoss(out_dim=6)
    torch.testing.assert_close(loss(student, teacher), entropy(student, teacher).mean())
    torch.testing.assert_close(loss(student[0], teacher[0]), entropy(student[0], teacher[0]).mean())


def test_a_batch_without_masks_gives_zero_with_a_gradient() -> None:
    student = torch.zeros(0, 6, requires_grad=True)
    got = iBOTPatchLoss(6).forward_masked(student, torch.zeros(0, 6), torch.zeros(4, 5, dtype=torch.bool))
    assert got.item() == 0
    got.backward()
    assert student.grad is not None


def test_two_names_of_one_argument() -> None:
    assert iBOTPatchLoss(6).center.shape == iBOTPatchLoss(out_dim=6).center.shape == (1, 1, 6)
    with pytest.raises(ConfigError, match="patch_out_dim=6 and out_dim=7"):
        iBOTPatchLoss(6, out_dim=7)
    with pytest.raises(ConfigError, match="patch_out_dim=None and out_dim=None"):
        iBOTPatchLoss()


def test_the_centre_is_over_all_patches() -> None:
    loss = iBOTPatchLoss(2)
    loss.update_center(torch.tensor([[[2.0, 4.0], [4.0, 0.0], [0.0, 2.0]]]))  # mean (2, 2)
    torch.testing.assert_close(loss.center, torch.tensor([[[0.2, 0.2]]]))
