"""Samples seeded by their position; broken images are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinov3_ref.data.datasets import ImageFolder
from dinov3_ref.data.sample import SeededSamples
from dinov3_ref.data.seeding import Draw
from tests.support.image_files import write_folder
from tests.support.training_batches import augment, with_broken


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
