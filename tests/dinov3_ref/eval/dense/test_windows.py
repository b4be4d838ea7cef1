"""Sliding windows and padded whole images, against a loop over pixels (docs/spec.md 5.4, 5.6)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dinov3_ref.eval.dense.windows import resize, slide, whole, window_starts


@pytest.mark.parametrize(
    ("length", "expected"), [(512, [0]), (683, [0, 171]), (853, [0, 341]), (854, [0, 341, 342])]
)
def test_starts(length: int, expected: list[int]) -> None:
    assert window_starts(length, 512, 341) == expected


def centred(images: Tensor) -> Tensor:
    """A prediction that depends on the window: the pixels minus the mean of the window, twice."""
    x = images[:, :1] - images.mean(dim=(1, 2, 3), keepdim=True)
    return torch.cat([x, 2 * x], dim=1)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_mean_of_all_windows(batch: int) -> None:
    image = torch.tensor(np.random.default_rng(0).normal(size=(3, 20, 34)), dtype=torch.float32)
    found = slide(centred, image, 16, 10, batch)
    total, times = np.zeros((2, 20, 34)), np.zeros((20, 34))
    for top in (0, 4):
        for left in (0, 10, 18):
            window = image[None, :, top : top + 16, left : left + 16]
            total[:, top : top + 16, left : left + 16] += centred(window)[0].numpy()
            times[top : top + 16, left : left + 16] += 1
    np.testing.assert_allclose(found.numpy(), total / times, atol=1e-6)


def test_whole_images_are_padded_on_both_sides() -> None:
    seen = []

    def predict(images: Tensor) -> Tensor:
        seen.append(images)
        return images[:, :1] * torch.arange(images.shape[-1])  # differs from left to right

    image = torch.ones(3, 16, 21)
    found = whole(predict, image, 16)
    assert seen[0].shape == (1, 3, 16, 32)
    assert found.shape == (1, 16, 21)
    assert torch.equal(found[0, 0], torch.arange(5.0, 26.0))
    both = whole(predict, image, 16, flipped=True)
    # the mirror image has its pixels 6 to 26: at a column c of 32, the mean of c and 31 - c
    assert torch.equal(both, torch.full((1, 16, 21), 15.5))


def test_resize_is_bilinear() -> None:
    x = torch.tensor([[[0.0, 4.0]]])
    assert resize(x, (1, 4))[0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]
    assert resize(x, (1, 2)) is x
