"""The toy set: complete, labelled, the same every time, and what it judges by is not in what it trains on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov3_ref.data.datasets import ImageFolder
from dinov3_ref.data.toy import toy
from dinov3_ref.data.toy.textures import UNSEEN
from dinov3_ref.errors import DataError
from dinov3_ref.eval.knn import knn_accuracy
from dinov3_ref.eval.labelled import Labelled
from tests.support.photographs import photograph


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "toy"
    counts = toy.write_toy(out, pictures=24, side=32)
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
    for make in (lambda seed: toy._pool(24, 32, seed), lambda seed: toy._digits(32, seed)):
        first, again, other = (list(islice(make(seed), 24)) for seed in (0, 0, 1))
        assert [name for name, _ in first] == [name for name, _ in again]
        assert all((a == b).all() for (_, a), (_, b) in zip(first, again, strict=True))
        assert any((a != b).any() for (_, a), (_, b) in zip(first, other, strict=True))


def test_halves_of_a_surface_share_no_pixel() -> None:
    photo = photograph("coffee")
    left, right = (toy._half(photo, split) for split in ("train", "test"))
    assert (left.width, right.width) == (300, 300)
    assert (np.hstack([left, right]) == np.asarray(photo)).all()


def test_classes_are_not_in_the_pool() -> None:
    pool = set(toy.POOL)
    assert not {("skimage", f"data/{name}.png") for name in toy.SURFACES} & pool
    assert not set(toy.PLACES) & pool


def test_a_digit_is_what_scikit_learn_says() -> None:
    """One bright pixel of the 8x8 grid lands in one place, in a colour away from the ground's."""
    digit = np.zeros((8, 8))
    digit[0, 0] = 1.0
    pixels = toy._place(digit, 64, np.random.default_rng(3)).astype(float)
    far = np.abs(pixels - np.median(pixels, axis=(0, 1))).max(-1) > 60
    rows, columns = np.flatnonzero(far.any(1)), np.flatnonzero(far.any(0))
    assert 0 < len(rows) < 20
    assert 0 < len(columns) < 20


def test_neither_colour_nor_pixels_give_the_digits_away(root: Path) -> None:
    """kNN on raw pixels: little better than the 10 % of guessing (measured 18.4)."""
    train, test = (
        raw_pixels(ImageFolder(root / "digits", labelled=True, split=split)) for split in ("train", "test")
    )
    assert knn_accuracy(train, test, ks=[20])[20]["top1"] < 30


def raw_pixels(dataset: ImageFolder) -> Labelled:
    pixels = np.stack([np.asarray(dataset[index][0], np.float32).ravel() for index in range(len(dataset))])
    return Labelled(
        torch.from_numpy(pixels), torch.from_numpy(dataset.labels), dataset.class_names, str(dataset.root)
    )


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["toy", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        toy.main()
    assert ended.value.code == 2
    assert (
        capsys.readouterr().err
        == f"error: '{tmp_path}' is there already; remove it or choose another folder\n"
    )
    monkeypatch.setattr(toy, "A_CLASS", {"train": 1})
    monkeypatch.setattr(toy, "_digits", lambda side, seed: iter(()))
    monkeypatch.setattr("sys.argv", ["toy", str(tmp_path / "x"), "--pictures", "4", "--side", "16"])
    toy.main()
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path / 'x' / 'pool'}  4 pictures"


def test_what_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="wanted 1 picture and 16 px at least"):
        toy.write_toy(tmp_path / "x", side=8)
    monkeypatch.setattr(toy, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="wants the package skimage; install scikit-image"):
        toy.write_toy(tmp_path / "x")
