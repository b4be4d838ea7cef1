"""Blur, normalisation, and the transforms of evaluations (docs/spec.md 4.12, 5.2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3_ref.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    GaussianBlur,
    make_classification_eval_transform,
    make_classification_train_transform,
    make_normalize_transform,
)
from tests.support.images.photographs import photograph


def plain(value: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


@pytest.mark.parametrize(("p", "low", "high"), [(1.0, 0.0, 0.0), (0.1, 0.82, 0.97), (0.0, 1.0, 1.0)])
def test_gaussian_blur_happens_with_one_minus_p(p: float, low: float, high: float) -> None:
    torch.manual_seed(0)
    photo = photograph("chelsea").resize((40, 30))
    blur = GaussianBlur(p=p, radius_min=0.5)  # less than that may round to nothing
    changed = np.mean([blur(photo).tobytes() != photo.tobytes() for _ in range(200)])
    assert low <= changed <= high


def test_blur_is_nine_pixels_wide() -> None:
    """A white point spreads over 9x9 and no further, whatever sigma is drawn."""
    torch.manual_seed(1)
    point = np.zeros((31, 31, 3), np.uint8)
    point[15, 15] = 255
    lit = np.zeros((31, 31), bool)
    for _ in range(50):
        lit |= np.asarray(GaussianBlur(p=0.0)(Image.fromarray(point)))[:, :, 0] > 0
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    assert 11 <= rows[0] <= 13
    assert (rows[0] + rows[-1], columns[0] + columns[-1]) == (30, 30)


def test_normalisation_by_hand() -> None:
    """(51 / 255 - 0.485) / 0.229 and so on."""
    x = make_normalize_transform()(plain(51, (5, 3)))
    assert x.shape == (3, 3, 5)
    expected = [(0.2 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    torch.testing.assert_close(x[:, 1, 2], torch.tensor(expected))


def test_evaluation_transform_is_short_side_256_and_centre_224() -> None:
    """Against Pillow's own resize and crop of an off-square photograph, 600x400 -> 384x256."""
    photo = photograph("coffee")
    assert photo.size == (600, 400)
    resized = photo.resize((384, 256), Image.Resampling.BICUBIC).crop((80, 16, 304, 240))
    x = make_classification_eval_transform()(photo)
    torch.testing.assert_close(x, make_normalize_transform()(resized))
    assert make_classification_eval_transform(crop_size=448)(photo).shape == (3, 448, 448)
    assert make_classification_eval_transform(crop_size=32, resize_size=32)(photo).shape == (3, 32, 32)


def test_training_transform_of_the_probe() -> None:
    torch.manual_seed(0)
    x = make_classification_train_transform(crop_size=48)(photograph("china"))
    assert x.shape == (3, 48, 48)
