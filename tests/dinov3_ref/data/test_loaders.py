"""Batches do not depend on workers, ranks or interruptions; broken images are skipped and counted."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from dinov3_ref.data.datasets import ImageFolder
from dinov3_ref.data.loaders import CombinedDataLoader, SamplerType
from dinov3_ref.errors import ConfigError, DataError
from tests.support.images.image_files import write_folder
from tests.support.training.training_batches import augment, loader, same, with_broken


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return ImageFolder(write_folder(tmp_path_factory.mktemp("photos")), transform=augment)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_batches(photos: ImageFolder, workers: int) -> None:
    alone = list(islice(loader(photos), 3))
    helped = list(islice(loader(photos, num_workers=workers), 3))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
    assert not same(alone[0], alone[1])


def test_another_seed_gives_other_batches(photos: ImageFolder) -> None:
    assert not same(next(iter(loader(photos, seed=1))), next(iter(loader(photos, seed=2))))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_loader_resumes_exactly(photos: ImageFolder, workers: int) -> None:
    whole = list(islice(loader(photos), 6))
    stopped = loader(photos, num_workers=workers)
    seen = list(islice(stopped, 2))  # batches that workers prefetched must not count
    assert stopped.state_dict() == {"samples_drawn": 8}
    resumed = loader(photos, num_workers=workers)
    resumed.load_state_dict(stopped.state_dict())
    seen += islice(resumed, 4)
    assert all(same(a, b) for a, b in zip(whole, seen, strict=True))
    seen_again = next(iter(loader(photos, sampler_advance=8)))
    assert same(seen_again, whole[2])


def test_one_rank_resumes_two(photos: ImageFolder) -> None:
    """Two ranks of 2 draw the rows of one rank of 4; then one rank resumes alone."""
    whole = list(islice(loader(photos), 3))
    pair = [loader(photos, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for step, batches in enumerate(islice(zip(*pair, strict=True), 2)):
        for rank, batch in enumerate(batches):
            for key, crops in (("collated_global_crops", 2), ("collated_local_crops", 2)):
                rows = whole[step][key].unflatten(0, (crops, 4))[:, rank::2]
                assert torch.equal(batch[key].unflatten(0, (crops, 2)), rows)
    assert pair[0].state_dict() == pair[1].state_dict() == {"samples_drawn": 8}
    alone = loader(photos)
    alone.load_state_dict(pair[0].state_dict())
    assert same(next(iter(alone)), whole[2])


def test_an_uneven_position_cannot_be_resumed(photos: ImageFolder) -> None:
    with pytest.raises(DataError, match="7 samples were drawn, which does not divide by 2 ranks"):
        loader(photos, rank=1, world_size=2).load_state_dict({"samples_drawn": 7})


def test_epochs(photos: ImageFolder) -> None:
    """6 photographs in batches of 4: one batch per epoch, a new order in the next, resumable in between."""
    epochs = loader(photos, sampler_type=SamplerType.EPOCH)
    assert len(epochs) == 1
    first, second = list(epochs), list(epochs)
    assert (len(first), len(second)) == (1, 1)
    assert first[0]["positions"].tolist() == [0, 1, 2, 3]
    assert second[0]["positions"].tolist() == [6, 7, 8, 9]
    resumed = loader(photos, sampler_type=SamplerType.EPOCH)
    resumed.load_state_dict({"samples_drawn": 4})
    assert same(next(iter(resumed)), second[0])


def test_resume_in_the_middle_of_an_epoch(photos: ImageFolder) -> None:
    whole = list(loader(photos, batch_size=2, sampler_type=SamplerType.EPOCH))
    resumed = loader(photos, batch_size=2, sampler_type=SamplerType.EPOCH)
    resumed.load_state_dict({"samples_drawn": 4})
    rest = list(resumed)
    assert len(whole) == 3
    assert len(rest) == 1
    assert same(rest[0], whole[2])
    assert next(iter(resumed))["positions"].tolist() == [6, 7]


def test_an_epoch_too_short_for_a_batch_is_refused(photos: ImageFolder) -> None:
    with pytest.raises(
        ConfigError, match="3 samples for each of 2 ranks, a batch has 4; use smaller batches"
    ):
        loader(photos, sampler_type=SamplerType.EPOCH, rank=0, world_size=2)
    assert len(loader(photos, sampler_type=SamplerType.EPOCH, sampler_size=9, world_size=2)) == 1


def test_the_global_generator_is_not_used(photos: ImageFolder) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for workers in (0, 1):
        next(iter(loader(photos, num_workers=workers)))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_skipped_and_counted(tmp_path: Path, workers: int) -> None:
    """Every 7th draw is broken and replaced by the next image; the other samples do not change."""
    dataset = with_broken(tmp_path, 1)
    batches = loader(dataset, num_workers=workers, max_broken_fraction=0.5)
    got = list(islice(batches, 7))
    assert all(batch["collated_global_crops"].shape == (8, 3, 32, 32) for batch in got)
    assert (batches.broken.drawn, batches.skipped) == (28, 4)
    assert CombinedDataLoader([batches, batches], [1, 1]).skipped == 8
    assert next(iter(batches.broken.messages)).startswith(f"'{tmp_path}/still/a0.jpg' is not an image")
    assert len(batches.broken.messages) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_images_are_a_one_line_error(tmp_path: Path, workers: int) -> None:
    batches = loader(with_broken(tmp_path, 8), num_workers=workers)
    with pytest.raises(
        DataError, match=r"images of \d+ samples could not be read, more than 1\.0% plus 10"
    ) as caught:
        for _ in islice(batches, 50):
            pass
    assert "\n" not in str(caught.value)
    assert "max_broken_fraction" in str(caught.value)


def test_only_broken_images(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    batches = loader(ImageFolder(tmp_path), max_broken_fraction=100)
    with pytest.raises(DataError, match=r"no image after it could be read either: .*x\.jpg"):
        next(iter(batches))


def combined(photos: ImageFolder, ratios: list[float]) -> CombinedDataLoader:
    return CombinedDataLoader(
        [loader(photos, batch_size=2, seed=seed) for seed in range(len(ratios))], ratios
    )


def test_loaders_are_chosen_by_ratio(photos: ImageFolder) -> None:
    class Constant:
        def __init__(self, value: int) -> None:
            self.value = value

        def __iter__(self) -> Any:
            while True:
                yield self.value

    combined_loader = CombinedDataLoader([Constant(i) for i in range(3)], [3, 0, 1])  # type: ignore[arg-type,misc]
    drawn: list[Any] = list(islice(combined_loader, 2000))
    assert drawn.count(1) == 0
    assert 0.71 < drawn.count(0) / 2000 < 0.79
    again: list[Any] = list(islice(CombinedDataLoader([Constant(i) for i in range(3)], [3, 0, 1]), 2000))  # type: ignore[arg-type,misc]
    assert drawn == again


def test_an_interrupted_combined_loader_resumes_exactly(photos: ImageFolder) -> None:
    whole = list(islice(combined(photos, [0.5, 0.5]), 9))
    stopped = combined(photos, [0.5, 0.5])
    seen = list(islice(stopped, 4))
    resumed = combined(photos, [0.5, 0.5])
    resumed.load_state_dict(stopped.state_dict())
    seen += islice(resumed, 5)
    assert all(same(a, b) for a, b in zip(whole, seen, strict=True))


def test_wrong_ratios_and_another_number_of_loaders(photos: ImageFolder) -> None:
    with pytest.raises(ConfigError, match="2 loaders with ratios"):
        CombinedDataLoader([loader(photos)] * 2, [1.0])
    with pytest.raises(ConfigError, match="wanted one ratio each, none below 0"):
        CombinedDataLoader([loader(photos)], [-1.0])
    with pytest.raises(ConfigError, match="state is of 1 loaders, this run has 2"):
        combined(photos, [1, 1]).load_state_dict({"steps": 0, "loaders": [{}]})
