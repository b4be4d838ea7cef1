"""Masks and class maps between the pixels of an image and those of the input."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dinodeploy.images.preprocess import PRESETS, Preprocess
from dinodeploy.tasks.dense import IGNORE, class_image, depth_image, enlarge_argmax, place_mask, segment_image

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.mark.parametrize("preset", PRESETS)
def test_masks_are_placed_as_images_are(preset: str) -> None:
    """The mask is the image's own brightness; both are cropped and resized."""
    preprocess = Preprocess.from_preset(preset, (64, 64), MEAN, STD)
    for width, height in ((301, 200), (97, 260)):
        rows, columns = np.mgrid[:height, :width]
        mask = ((rows // 40 + columns // 40) % 2).astype(np.int64)
        image = Image.fromarray((mask * 255).astype(np.uint8)).convert("RGB")
        seen = preprocess(image)[0] * 0.5 + 0.5
        placed = place_mask(mask, preprocess)
        assert placed.shape == seen.shape
        rows, columns = preprocess.shown(width, height)
        inside = placed[:rows, :columns]
        assert ((seen[:rows, :columns] > 0.5) == inside).mean() > 0.95
        assert (placed == IGNORE).sum() == placed.size - inside.size


def test_the_visible_part_is_inside_the_image() -> None:
    timm = Preprocess.from_preset("timm", (64, 64), MEAN, STD)
    assert timm.view(300, 200) == pytest.approx((50, 0, 250, 200), abs=2)
    assert timm.view(200, 300) == pytest.approx((0, 50, 200, 250), abs=2)
    assert Preprocess.from_preset("official", (64, 64), MEAN, STD).view(300, 200) == (0, 0, 300, 200)


def test_enlarged_classes_agree_with_torch() -> None:
    import torch

    logits = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(logits).permute(2, 0, 1)[None], size=(80, 48), mode="bilinear"
    )
    assert (enlarge_argmax(logits, (80, 48)) == wanted[0].argmax(0).numpy()).mean() > 0.999


def test_class_images_hold_ids_and_depth_images_millimetres() -> None:
    ids = np.array([[0, 1], [7, IGNORE]])
    image = class_image(ids)
    assert (np.asarray(image) == ids).all()
    assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    depth = depth_image(np.array([[0.0, 1.2344], [np.nan, 1000.0]], np.float32))
    assert np.asarray(depth).tolist() == [[0, 1234], [0, 65535]]


def test_ids_are_spread_over_red_green_and_blue() -> None:
    pixels = np.asarray(segment_image(np.array([[0, 1], [256 + 2, 65536 * 3 + 5]])))
    assert pixels.tolist() == [[[0, 0, 0], [1, 0, 0]], [[2, 1, 0], [5, 0, 3]]]
