"""The toy data set: complete, labelled, reproducible, and its test classes are not in the training pool."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov3_ref.data.datasets import ImageFolder
from dinov3_ref.data.toy import sets
from dinov3_ref.data.toy.sets import SEEN, UNSEEN, draw_texture, paint, smooth_noise
from dinov3_ref.errors import DataError
from dinov3_ref.eval.knn import knn_accuracy
from dinov3_ref.eval.labelled import Labelled
from tests.support.images.photographs import photograph


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "toy"
    counts = sets.write_toy(out, images=24, side=32)
    assert counts == {"pool": 24, "digits": 1797, "textures": 9 * (60 + 40), "places": 11 * (60 + 40)}
    return out


def test_the_sets_are_datasets(root: Path) -> None:
    assert len(ImageFolder(root / "pool")) == 24
    assert len(ImageFolder(root / "pool" / "textures")) == 14
    for split, count in (("train", 1200), ("test", 597)):
        digits = ImageFolder(root / "digits", labelled=True, split=split)
        assert (len(digits), digits.class_names) == (count, tuple("0123456789"))
        assert digits.labels is not None
        assert np.bincount(digits.labels).min() > 50
    textures = ImageFolder(root / "textures" / "test", labelled=True)
    assert set(textures.class_names) == {*UNSEEN, "brick", "grass", "gravel"}
    places = ImageFolder(root / "places" / "train", labelled=True)
    assert (len(places), len(places.class_names)) == (660, 11)
    image, _ = textures[0]
    assert image.size == (32, 32)


def test_the_same_arguments_give_the_same_pixels() -> None:
    for make in (lambda seed: sets.pool_images(24, 32, seed), lambda seed: sets.digit_images(32, seed)):
        first, again, other = (list(islice(make(seed), 24)) for seed in (0, 0, 1))
        assert [name for name, _ in first] == [name for name, _ in again]
        assert all((a == b).all() for (_, a), (_, b) in zip(first, again, strict=True))
        assert any((a != b).any() for (_, a), (_, b) in zip(first, other, strict=True))


def test_halves_of_a_surface_share_no_pixel() -> None:
    photo = photograph("coffee")
    left, right = (sets.half_of(photo, split) for split in ("train", "test"))
    assert (left.width, right.width) == (300, 300)
    assert (np.hstack([left, right]) == np.asarray(photo)).all()


def test_classes_are_not_in_the_pool() -> None:
    pool = set(sets.POOL)
    assert not {("skimage", f"data/{name}.png") for name in sets.SURFACES} & pool
    assert not set(sets.PLACES) & pool


def test_a_digit_is_drawn_in_one_place() -> None:
    """One bright pixel of the 8x8 grid becomes one spot in a colour far from the background's."""
    digit = np.zeros((8, 8))
    digit[0, 0] = 1.0
    pixels = sets.paint_digit(digit, 64, np.random.default_rng(3)).astype(float)
    far = np.abs(pixels - np.median(pixels, axis=(0, 1))).max(-1) > 60
    rows, columns = np.flatnonzero(far.any(1)), np.flatnonzero(far.any(0))
    assert 0 < len(rows) < 20
    assert 0 < len(columns) < 20


def test_raw_pixels_do_not_classify_the_digits(root: Path) -> None:
    """kNN on raw pixels is little better than guessing (10 %): measured 18.4 %."""
    train, test = (
        raw_pixels(ImageFolder(root / "digits", labelled=True, split=split)) for split in ("train", "test")
    )
    assert knn_accuracy(train, test, ks=[20])[20]["top1"] < 30


def raw_pixels(dataset: ImageFolder) -> Labelled:
    pixels = np.stack([np.asarray(dataset[index][0], np.float32).ravel() for index in range(len(dataset))])
    return Labelled(
        torch.from_numpy(pixels), torch.from_numpy(dataset.labels), dataset.class_names, str(dataset.root)
    )


def test_wrong_arguments_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="wanted at least 1 image and 16 px"):
        sets.write_toy(tmp_path / "x", side=8)
    monkeypatch.setattr(sets, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="package skimage, which is not installed; pip install scikit-image"):
        sets.write_toy(tmp_path / "x")


ALL = SEEN | UNSEEN


@pytest.mark.parametrize("kind", ALL)
def test_textures_are_seeded_and_differ(kind: str) -> None:
    first, again, other = (draw_texture(ALL[kind], 48, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first.dtype, first.shape) == (np.uint8, (48, 48, 3))
    assert (first == again).all()
    assert (first != other).mean() > 0.5
    assert first.std() > 10  # not a plain colour


def test_training_and_evaluation_kinds_are_disjoint() -> None:
    assert not set(SEEN) & set(UNSEEN)
    assert len(set(ALL.values())) == len(ALL)


def test_paint_by_hand() -> None:
    """A map of two values becomes two colours that differ by at least 0.35 (modulo 1) in every channel."""
    height = np.zeros((64, 64))
    height[:, 32:] = 5.0
    for seed in range(5):
        pixels = paint(height, np.random.default_rng(seed)).astype(float)
        left, right = pixels[:, :32].mean((0, 1)), pixels[:, 32:].mean((0, 1))
        apart = np.abs(left - right) / 255
        assert (apart > 0.33).all()
        assert (apart < 0.67).all()


def test_a_flat_map_is_one_colour() -> None:
    assert paint(np.ones((8, 8)), np.random.default_rng(0)).std((0, 1)).max() < 12


def test_smooth_noise_is_smooth() -> None:
    noise = smooth_noise(64, 4, np.random.default_rng(0))
    assert noise.shape == (64, 64)
    assert np.abs(np.diff(noise, axis=0)).max() < 0.15
