"""Training crops of linear depth (docs/spec.md 5.6)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3_ref.data.sample import torch_seed
from dinov3_ref.errors import BrokenImage
from dinov3_ref.eval.dense.depth_crops import TestImages, TrainingCrops, jittered, without_border
from tests.support.images.dense_layouts import slope

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def test_the_border_of_nyu() -> None:
    assert without_border(torch.zeros(3, 480, 640)).shape == (3, 427, 565)
    marked = torch.zeros(1, 480, 640)
    marked[:, 45:472, 43:608] = 1
    assert without_border(marked).all()


def test_pixels_and_depths_stay_together() -> None:
    """The grey level is the depth in decimetres: away from edges they agree after rotation, flip and crop."""
    depth = np.tile(np.linspace(1000, 9000, 120).astype(np.int32), (100, 1))
    image = Image.fromarray(np.repeat((depth / 100).round().astype(np.uint8)[..., None], 3, axis=-1))
    rising = set()
    for seed in range(20):
        with torch_seed(seed):
            x, y = TrainingCrops((64, 80), MEAN, STD, border=False)(image, depth)
        assert (x.shape, y.shape) == ((3, 64, 80), (64, 80))
        grey = (x[0] * 0.25 + 0.5) * 255
        known = y > 0  # rotation leaves corners without a depth
        jitter = (grey[known] / (10 * y[known])).median()  # a factor, nearly: gamma is close to 1
        assert 0.4 < jitter < 1.9
        rising.add(bool(y[32, -10] > y[32, 10]))
    assert rising == {True, False}


def test_an_image_smaller_than_the_crop() -> None:
    image = Image.new("RGB", (80, 64))
    with pytest.raises(BrokenImage, match="use a smaller --crop-size"):
        TrainingCrops((64, 80), MEAN, STD)(image, slope(0).astype(np.int32))


def test_jitter_is_gamma_times_brightness_times_colour() -> None:
    x = torch.full((3, 4, 4), 100.0)
    levels = []
    for seed in range(50):
        with torch_seed(seed):
            made = jittered(x)
        assert (made <= 255).all()
        assert made[:, 0, 0].unique().numel() >= 1
        levels.append(made.mean().item())
    assert min(levels) > 100**0.9 * 0.75 * 0.9 - 1
    assert max(levels) > 120


def test_test_images_keep_their_depth() -> None:
    image = Image.new("RGB", (80, 64), (255, 0, 128))
    x, y = TestImages(MEAN, STD, 1000.0, (32, 48))(image, slope(0).astype(np.int32))
    assert (x.shape, y.shape) == ((3, 32, 48), (64, 80))
    np.testing.assert_allclose(x[:, 0, 0], [2.0, -2.0, (128 / 255 - 0.5) * 4], atol=1e-5)
    np.testing.assert_allclose(y, slope(0) / 1000, rtol=1e-6)
