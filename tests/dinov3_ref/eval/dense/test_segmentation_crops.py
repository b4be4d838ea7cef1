"""Training crops of linear segmentation (docs/spec.md 5.4)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3_ref.data.sample import torch_seed
from dinov3_ref.eval.dense import segmentation_crops
from dinov3_ref.eval.dense.segmentation_crops import (
    TestImages,
    TrainingCrops,
    collate_pairs,
    distorted,
    scaled_size,
)
from tests.support.images.dense_layouts import scene

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 480), (683, 512)), ((480, 640), (512, 683)), ((5, 5), (512, 512))]
)
def test_the_short_side(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert scaled_size(size, 512) == expected


def test_pixels_and_ids_stay_together() -> None:
    """An image that shows its ids as grey levels: after any crop and flip they agree away from edges."""
    ids = np.zeros((60, 90), np.int32)
    ids[:, 30:60], ids[20:, 60:] = 1, 2
    image = Image.fromarray(np.repeat((ids * 100).astype(np.uint8)[..., None], 3, axis=-1))
    crops = TrainingCrops(48, 64, MEAN, STD, distort=False)
    padded, classes, mirrored = 0, set(), set()
    for seed in range(20):
        with torch_seed(seed):
            x, y = crops(image, ids)
        assert x.shape == (3, 64, 64)
        assert y.shape == (64, 64)
        grey = (x * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
        there = y != 255
        padded += bool((~there).any())
        assert (x[:, ~there] == 0).all()  # padding comes after the normalisation
        shown = (grey[0] / 100).round().long()
        assert (shown == y)[there].double().mean() > 0.9  # bilinear and nearest differ at edges
        classes |= set(y[there].tolist())
        last = y[:, there[0]][there[:, 0]][-1]  # ids of the lowest row rise, unless it is mirrored
        mirrored.add(int(torch.sign(last[-1] - last[0])))
    assert classes == {0, 1, 2}
    assert {-1, 1} <= mirrored
    assert 0 < padded < 20  # smaller than the crop at some ratios


def test_a_crop_of_one_class_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine tenths are class 0: most first draws are of it alone."""
    again = mixed_crops()
    monkeypatch.setattr(segmentation_crops, "TRIES", 0)
    assert again > 2 * mixed_crops()


def mixed_crops() -> int:
    """Crops of 30 with both classes."""
    ids = np.zeros((200, 400), np.int32)
    ids[:, 360:] = 1
    image = Image.fromarray(np.zeros((200, 400, 3), np.uint8))
    mixed = 0
    for seed in range(30):
        with torch_seed(seed):
            _, y = TrainingCrops(200, 64, MEAN, STD)(image, ids)
        mixed += len(y.unique()) > 1
    return mixed


def test_distortion_keeps_uint8_and_changes_most_images() -> None:
    x = torch.from_numpy(np.array(scene(0)[0])).permute(2, 0, 1)
    changed = []
    for seed in range(40):
        with torch_seed(seed):
            made = distorted(x)
        assert (made.dtype, made.shape) == (torch.uint8, x.shape)
        changed.append(not torch.equal(made, x))
    assert 30 < sum(changed) <= 40  # 1 of 16 stays as it is


def test_test_images_are_resized_and_their_ids_are_not() -> None:
    image, ids = scene(0)
    x, y = TestImages(32, MEAN, STD)(image, ids.astype(np.int32))
    assert x.shape == (3, 32, 40)
    assert torch.equal(y, torch.from_numpy(ids.astype(np.int64)))
    expected = np.asarray(image.resize((40, 32), Image.Resampling.BILINEAR), np.float64) / 255
    np.testing.assert_allclose(x.permute(1, 2, 0), (expected - MEAN) / STD, atol=1e-5)


def test_broken_samples_are_counted() -> None:
    class Sample:
        def __init__(self, views: object, broken: tuple[str, ...] = ()) -> None:
            self.views, self.broken = views, broken

    found = collate_pairs([Sample((torch.ones(3, 2, 2), torch.ones(2, 2))), Sample(None, ("bad",))])
    assert (found["drawn"], found["broken"], found["images"].shape) == (2, ["bad"], (1, 3, 2, 2))
    assert set(collate_pairs([Sample(None, ("bad",))])) == {"drawn", "broken"}
