"""Crops of photographs, and of images whose pixels show how they were cropped (docs/spec.md 4.12)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dinov3_ref.data.augmentations import BLUR_PROBABILITIES, DataAugmentationDINO
from dinov3_ref.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    GaussianBlur,
    make_normalize_transform,
)
from dinov3_ref.errors import ConfigError
from tests.support.images.photographs import photograph


def augmentation(**changes: Any) -> DataAugmentationDINO:
    sizes = {"local_crops_number": 8, "global_crops_size": 64, "local_crops_size": 32}
    return DataAugmentationDINO((0.32, 1.0), (0.05, 0.32), **(sizes | changes))


def bare(**changes: Any) -> DataAugmentationDINO:
    """Only geometry: no colour, blur or solarize."""
    made = augmentation(**changes)
    made.global_transfo1 = made.global_transfo2 = made.local_transfo = made.normalize
    return made


def in_bytes(x: Tensor) -> Tensor:
    """Normalised [3,H,W] -> 0..255, unrounded."""
    return (x * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]) * 255


def plain(value: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def coordinates() -> Image.Image:
    """200x160, red is x, green is y: a crop shows its position."""
    y, x = np.mgrid[0:160, 0:200]
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


def extent(crop: Tensor) -> tuple[float, float]:
    """(height, width) of the region of `coordinates` that a crop shows, in its pixels."""
    red, green, _ = in_bytes(crop)
    side = crop.shape[-1]
    per_pixel = side / (side - 8)  # the resize blurs the outermost pixels
    width = (red[:, -5] - red[:, 4]).abs().mean() * per_pixel
    height = (green[-5] - green[4]).abs().mean() * per_pixel
    return float(height), float(width)


def test_views_of_a_photograph() -> None:
    torch.manual_seed(0)
    views = augmentation()(photograph("rocket"))
    assert sorted(views) == ["global_crops", "global_crops_teacher", "local_crops", "offsets", "weak_flag"]
    assert [crop.shape for crop in views["global_crops"]] == [(3, 64, 64)] * 2
    assert [crop.shape for crop in views["local_crops"]] == [(3, 32, 32)] * 8
    assert {crop.dtype for crop in views["global_crops"] + views["local_crops"]} == {torch.float32}
    assert views["weak_flag"] is True
    assert views["offsets"] == ()
    assert views["global_crops_teacher"] is views["global_crops"]


def test_the_official_defaults() -> None:
    made = DataAugmentationDINO((0.32, 1.0), (0.05, 0.32), 1)
    assert (made.global_crops_size, made.local_crops_size, made.patch_size) == (224, 96, 16)
    assert made.gram_teacher_crops_size is None


def test_all_random_numbers_come_from_torch() -> None:
    made, photo = augmentation(), photograph("coffee")
    crops = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        crops.append(torch.stack(made(photo)["global_crops"]))
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])


@pytest.mark.parametrize(("which", "low", "high"), [("global_crops", 0.32, 1.0), ("local_crops", 0.05, 0.32)])
def test_area_and_aspect_ratio_of_crops(which: str, low: float, high: float) -> None:
    torch.manual_seed(0)
    made = bare(local_crops_size=64)
    extents = [extent(crop) for _ in range(30) for crop in made(coordinates())[which]]
    areas = [height * width / (200 * 160) for height, width in extents]
    aspects = [width / height for height, width in extents]
    assert low * 0.93 < min(areas) < low * 1.3
    assert high * 0.8 < max(areas) < high * 1.07
    assert 0.7 < min(aspects) < 0.85
    assert 1.2 < max(aspects) < 1.55  # 1.5: torchvision's way out where no crop fits


def test_flips_are_half_or_none() -> None:
    def share_flipped(**changes: Any) -> float:
        torch.manual_seed(0)
        made = bare(local_crops_number=0, **changes)
        crops = [crop for _ in range(100) for crop in made(coordinates())["global_crops"]]
        return float(np.mean([bool(crop[0, :, -1].mean() < crop[0, :, 0].mean()) for crop in crops]))

    assert 0.4 < share_flipped() < 0.6
    assert share_flipped(horizontal_flips=False) == 0.0


# ---- distortions --------------------------------------------------------------------------------


@pytest.mark.parametrize("blur", ["published", "nominal"])
def test_blur_probabilities(blur: Any) -> None:
    """As trained: 0, 90 %, 50 %. RandomApply has the real probability; GaussianBlur inverts p."""
    made = augmentation(blur=blur)
    steps = (made.global_transfo1, made.global_transfo2, made.local_transfo)
    found = [next(step for step in one.transforms if isinstance(step, GaussianBlur)).p for one in steps]
    assert found == pytest.approx({"published": [0.0, 0.9, 0.5], "nominal": [1.0, 0.1, 0.5]}[blur])
    assert BLUR_PROBABILITIES["published"] == (0.0, 0.9, 0.5)


def test_solarize_inverts_from_128_on_in_the_second_crop_only() -> None:
    torch.manual_seed(0)
    made = augmentation(share_color_jitter=True, local_crops_number=0)
    made.shared_colour = lambda image: image
    bright = [made(plain(200))["global_crops"] for _ in range(150)]
    first, second = ([round(float(in_bytes(crops[i]).mean())) for crops in bright] for i in range(2))
    assert set(first) == {200}
    assert set(second) == {200, 55}
    assert 0.12 < second.count(55) / 150 < 0.28
    assert {round(float(in_bytes(made(plain(127))["global_crops"][1]).mean())) for _ in range(50)} == {127}


def test_colours_change_in_most_crops_and_grey_in_a_fifth() -> None:
    torch.manual_seed(0)
    made = augmentation(local_crops_number=0)
    tinted = Image.new("RGB", (60, 60), (90, 60, 40))
    means = [in_bytes(made(tinted)["global_crops"][0]).mean((1, 2)) for _ in range(100)]
    grey = np.mean([float(mean.max() - mean.min()) < 1.01 for mean in means])
    same = np.mean([torch.allclose(mean, torch.tensor([90.0, 60.0, 40.0]), atol=0.6) for mean in means])
    assert 0.12 < grey < 0.28
    assert 0.08 < same < 0.25  # 0.2 without jitter times 0.8 without grey = 0.16


def test_shared_colour_is_drawn_once_per_image() -> None:
    torch.manual_seed(0)
    tinted = Image.new("RGB", (60, 60), (90, 60, 40))

    def spread(**changes: Any) -> float:
        crops = augmentation(**changes)(tinted)["local_crops"]
        return float(torch.stack([crop.mean((1, 2)) for crop in crops]).std(0).max())

    assert max(spread(share_color_jitter=True) for _ in range(5)) < 1e-5
    assert min(spread() for _ in range(5)) > 0.05


# ---- crops of the Gram teacher ------------------------------------------------------------------


def test_gram_crops_show_the_same_region_in_their_size() -> None:
    torch.manual_seed(0)
    for undistorted in (False, True):
        made = bare(gram_teacher_crops_size=128, gram_teacher_no_distortions=undistorted)
        views = made(coordinates())
        assert [crop.shape for crop in views["gram_teacher_crops"]] == [(3, 128, 128)] * 2
        assert [crop.shape for crop in views["global_crops"]] == [(3, 64, 64)] * 2
        for crop, gram in zip(views["global_crops"], views["gram_teacher_crops"], strict=True):
            halved = torch.nn.functional.avg_pool2d(gram, 2)
            assert float((crop - halved)[:, 2:-2, 2:-2].abs().max()) < 0.03


def test_gram_crops_have_the_detail_of_their_size() -> None:
    """They are cropped at 128 px, not enlarged from 64 px: they have fine detail."""
    torch.manual_seed(0)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    gram = bare(gram_teacher_crops_size=128)(noise)["gram_teacher_crops"][0]
    neighbours = (gram[:, :, 1:] - gram[:, :, :-1]).std() / gram.std()
    assert neighbours > 0.8  # measured 1.26; enlarged from 64 px 0.60


def test_gram_crops_are_distorted_or_not() -> None:
    tinted = Image.new("RGB", (60, 60), (90, 60, 40))
    expected = make_normalize_transform()(tinted)[:, 0, 0]
    torch.manual_seed(0)
    for undistorted in (False, True):
        made = augmentation(gram_teacher_crops_size=96, gram_teacher_no_distortions=undistorted)
        grams = [gram for _ in range(10) for gram in made(tinted)["gram_teacher_crops"]]
        assert all(torch.allclose(gram[:, 9, 9], expected, atol=1e-5) for gram in grams) is undistorted


def test_gram_crops_smaller_than_the_global_ones() -> None:
    torch.manual_seed(0)
    views = augmentation(gram_teacher_crops_size=48)(photograph("coffee"))
    assert views["gram_teacher_crops"][0].shape == (3, 48, 48)
    assert views["global_crops"][0].shape == (3, 64, 64)


# ---- the other options --------------------------------------------------------------------------


def test_teacher_crops_without_distortion() -> None:
    torch.manual_seed(0)
    tinted = Image.new("RGB", (60, 60), (90, 60, 40))
    views = augmentation(teacher_no_color_jitter=True)(tinted)
    expected = make_normalize_transform()(tinted)[:, :1, :1].expand(3, 64, 64)
    for crop in views["global_crops_teacher"]:
        torch.testing.assert_close(crop, expected)


def test_strength_of_colour_jitter() -> None:
    """Without jitter and grey, colours stay; with grey probability 1, channels are equal."""
    torch.manual_seed(0)
    tinted = Image.new("RGB", (60, 60), (90, 60, 40))
    untouched = augmentation(color_jitter=(0, 0, 0, 0), grayscale_probability=0)(tinted)["local_crops"]
    expected = make_normalize_transform()(tinted)[:, :1, :1].expand(3, 32, 32)
    for crop in untouched:
        torch.testing.assert_close(crop, expected)
    grey = augmentation(grayscale_probability=1, mean=(0, 0, 0), std=(1, 1, 1))(tinted)["local_crops"]
    for crop in grey:
        assert (crop == crop[:1]).all()


@pytest.mark.parametrize("gram", [None, 96])
def test_local_crops_as_windows_of_the_global_ones(gram: int | None) -> None:
    torch.manual_seed(0)
    made = bare(
        local_crops_subset_of_global_crops=True,
        gram_teacher_crops_size=gram,
        gram_teacher_no_distortions=True,
    )
    seen = set()
    for _ in range(10):
        views = made(photograph("coffee"))
        assert len(views["offsets"]) == 8
        for number, (crop, (top, left)) in enumerate(
            zip(views["local_crops"], views["offsets"], strict=True)
        ):
            parent = views["global_crops"][number // 4]
            assert torch.equal(crop, parent[:, top : top + 32, left : left + 32])
            seen.add((top, left))
    assert seen == {(top, left) for top in (0, 16, 32) for left in (0, 16, 32)}


def test_wrong_sizes_and_unknown_blur() -> None:
    with pytest.raises(ConfigError, match="local crops of 65 px cannot be windows of global crops of 64 px"):
        augmentation(local_crops_subset_of_global_crops=True, local_crops_size=65)
    with pytest.raises(ConfigError, match="blur is 'none'; wanted one of published, nominal"):
        augmentation(blur="none")
