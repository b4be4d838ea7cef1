"""Samples seeded by their position; broken images are replaced."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from dinov3_ref.data.datasets import ImageFolder
from dinov3_ref.data.sample import BrokenImages, Draw, SeededSamples, derive_seed, torch_seed
from dinov3_ref.errors import DataError
from tests.support.images.image_files import write_folder
from tests.support.training.training_batches import augment, with_broken


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return ImageFolder(write_folder(tmp_path_factory.mktemp("photos")), transform=augment)


def test_a_replacement_uses_the_seed_of_the_broken_draw(tmp_path: Path) -> None:
    """A broken image at position 5 gives what the next image gives at position 5."""
    dataset = with_broken(tmp_path, 1)
    samples = SeededSamples(dataset, seed=1)
    broken = next(i for i in range(7) if dataset.paths[i].endswith("a0.jpg"))
    replacement, itself = samples[Draw(broken, 5)], samples[Draw(broken + 1, 5)]
    assert torch.equal(replacement.views["global_crops"][0], itself.views["global_crops"][0])
    assert (len(replacement.broken), len(itself.broken)) == (1, 0)
    assert SeededSamples(dataset, tries=1)[broken].views is None


def test_crops_depend_on_the_position(photos: ImageFolder) -> None:
    samples = SeededSamples(photos)
    first, again, later = (samples[Draw(2, p)].views["global_crops"][0] for p in (2, 2, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_errors_of_the_transform_are_raised(photos: ImageFolder, tmp_path: Path) -> None:
    dataset = ImageFolder(write_folder(tmp_path), transform=lambda image: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SeededSamples(dataset)[0]


def test_a_draw_is_an_int_and_can_be_pickled() -> None:
    draw = pickle.loads(pickle.dumps(Draw(3, 17)))
    assert (draw, draw.position) == (3, 17)
    assert ["a", "b", "c", "d"][draw] == "d"


def test_derived_seeds_differ_and_are_reproducible() -> None:
    assert derive_seed(0, "crops", 1) == derive_seed(0, "crops", 1)
    assert len({derive_seed(seed, word, 1) for seed in range(50) for word in ("crops", "mask")}) == 100
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert 0 <= derive_seed(9) < 2**63


def test_torch_seed_restores_the_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    first = torch.rand(2)
    with torch_seed(5):
        inside = torch.rand(2)
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(2), inside)


def test_the_limit_by_hand() -> None:
    counter = BrokenImages(max_fraction=0.1, grace=2)
    counter.record(10, ["a", "b", "c"])  # 3 <= 2 + 1
    with pytest.raises(DataError, match=r"5 images of 20 samples could not be read, more than 10\.0% plus 2"):
        counter.record(10, ["a", "d"])
    assert list(counter.messages) == ["a", "b", "c", "d"]
