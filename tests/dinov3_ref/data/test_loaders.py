"""Batches that are the same with any number of workers and ranks, after any stop; broken pictures counted."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3_ref.data.augmentations import DataAugmentationDINO
from dinov3_ref.data.broken_images import BrokenImages
from dinov3_ref.data.collate import collate_data_and_cast
from dinov3_ref.data.combined_loader import CombinedDataLoader
from dinov3_ref.data.datasets import ImageFolder
from dinov3_ref.data.loaders import ResumableLoader, SamplerType, make_data_loader
from dinov3_ref.data.masking import MaskingGenerator
from dinov3_ref.data.sample import SeededSamples
from dinov3_ref.data.seeding import Draw
from dinov3_ref.errors import ConfigError, DataError
from tests.support.image_files import write_folder

augment = DataAugmentationDINO((0.32, 1.0), (0.05, 0.32), 2, global_crops_size=32, local_crops_size=16)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return ImageFolder(write_folder(tmp_path_factory.mktemp("photos")), transform=augment)


def loader(
    dataset: Any, batch_size: int = 4, rank: int = 0, world_size: int = 1, **options: Any
) -> ResumableLoader:
    collate = partial(
        collate_data_and_cast,
        mask_ratio_tuple=(0.1, 0.5),
        mask_probability=0.5,
        dtype=torch.float32,
        mask_generator=MaskingGenerator(2, min_num_patches=1),
        rank=rank,
        world_size=world_size,
    )
    return make_data_loader(
        dataset=dataset,
        batch_size=batch_size,
        collate_fn=collate,
        rank=rank,
        world_size=world_size,
        **options,
    )


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Bit for bit, every key."""
    return first.keys() == second.keys() and all(
        torch.equal(a, second[key]) if isinstance(a, Tensor) else a == second[key] for key, a in first.items()
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(photos: ImageFolder, workers: int) -> None:
    alone = list(islice(loader(photos), 3))
    helped = list(islice(loader(photos, num_workers=workers), 3))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
    assert not same(alone[0], alone[1])


def test_another_seed_gives_other_batches(photos: ImageFolder) -> None:
    assert not same(next(iter(loader(photos, seed=1))), next(iter(loader(photos, seed=2))))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_goes_on_exactly(photos: ImageFolder, workers: int) -> None:
    whole = list(islice(loader(photos), 6))
    stopped = loader(photos, num_workers=workers)
    seen = list(islice(stopped, 2))  # workers have fetched ahead by now: that must not count
    assert stopped.state_dict() == {"samples_drawn": 8}
    resumed = loader(photos, num_workers=workers)
    resumed.load_state_dict(stopped.state_dict())
    seen += islice(resumed, 4)
    assert all(same(a, b) for a, b in zip(whole, seen, strict=True))
    seen_again = next(iter(loader(photos, sampler_advance=8)))
    assert same(seen_again, whole[2])


def test_from_two_ranks_to_one_crops_and_masks_go_on(photos: ImageFolder) -> None:
    """Two ranks of 2 draw the rows of one rank of 4, mask for mask; then one rank goes on alone."""
    whole = list(islice(loader(photos), 3))
    pair = [loader(photos, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for step, batches in enumerate(islice(zip(*pair, strict=True), 2)):
        for rank, batch in enumerate(batches):
            for key, crops in (
                ("collated_global_crops", 2),
                ("collated_local_crops", 2),
                ("collated_masks", 2),
            ):
                rows = whole[step][key].unflatten(0, (crops, 4))[:, rank::2]
                assert torch.equal(batch[key].unflatten(0, (crops, 2)), rows)
    assert pair[0].state_dict() == pair[1].state_dict() == {"samples_drawn": 8}
    alone = loader(photos)
    alone.load_state_dict(pair[0].state_dict())
    assert same(next(iter(alone)), whole[2])


def test_a_place_between_two_ranks_cannot_be_resumed(photos: ImageFolder) -> None:
    with pytest.raises(DataError, match="7 samples were drawn, which 2 ranks cannot have shared equally"):
        loader(photos, rank=1, world_size=2).load_state_dict({"samples_drawn": 7})


def test_epochs(photos: ImageFolder) -> None:
    """6 photographs in batches of 4: one batch an epoch, another order in the next, resumable between."""
    epochs = loader(photos, sampler_type=SamplerType.EPOCH)
    assert len(epochs) == 1
    first, second = list(epochs), list(epochs)
    assert (len(first), len(second)) == (1, 1)
    assert first[0]["positions"].tolist() == [0, 1, 2, 3]
    assert second[0]["positions"].tolist() == [6, 7, 8, 9]
    resumed = loader(photos, sampler_type=SamplerType.EPOCH)
    resumed.load_state_dict({"samples_drawn": 4})
    assert same(next(iter(resumed)), second[0])


def test_in_the_middle_of_an_epoch(photos: ImageFolder) -> None:
    whole = list(loader(photos, batch_size=2, sampler_type=SamplerType.EPOCH))
    resumed = loader(photos, batch_size=2, sampler_type=SamplerType.EPOCH)
    resumed.load_state_dict({"samples_drawn": 4})
    rest = list(resumed)
    assert len(whole) == 3
    assert len(rest) == 1
    assert same(rest[0], whole[2])
    assert next(iter(resumed))["positions"].tolist() == [6, 7]


def test_an_epoch_too_short_for_a_batch_is_refused(photos: ImageFolder) -> None:
    with pytest.raises(ConfigError, match="each of 2 ranks 3 samples, a batch wants 4; make batches smaller"):
        loader(photos, sampler_type=SamplerType.EPOCH, rank=0, world_size=2)
    assert len(loader(photos, sampler_type=SamplerType.EPOCH, sampler_size=9, world_size=2)) == 1


def test_the_models_random_numbers_are_left_alone(photos: ImageFolder) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for workers in (0, 1):
        next(iter(loader(photos, num_workers=workers)))
    assert torch.equal(torch.rand(2), expected)


# ---- broken pictures ----------------------------------------------------------------------------


def with_broken(root: Path, broken: int) -> ImageFolder:
    write_folder(root)
    for number in range(broken):
        (root / "still" / f"a{number}.jpg").write_bytes(b"\xff\xd8\xff broken")
    return ImageFolder(root, transform=augment)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures_are_skipped_and_counted(tmp_path: Path, workers: int) -> None:
    """Every 7th draw meets the broken one; its successor stands in, all others are what they were."""
    dataset = with_broken(tmp_path, 1)
    batches = loader(dataset, num_workers=workers, max_broken_fraction=0.5)
    got = list(islice(batches, 7))
    assert all(batch["collated_global_crops"].shape == (8, 3, 32, 32) for batch in got)
    assert (batches.broken.drawn, batches.skipped) == (28, 4)
    assert CombinedDataLoader([batches, batches], [1, 1]).skipped == 8
    assert next(iter(batches.broken.messages)).startswith(f"'{tmp_path}/still/a0.jpg' is not a picture")
    assert len(batches.broken.messages) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_pictures_stop_the_run_in_one_line(tmp_path: Path, workers: int) -> None:
    batches = loader(with_broken(tmp_path, 8), num_workers=workers)
    with pytest.raises(
        DataError, match=r"pictures of \d+ drawn could not be read, more than 1\.0% and 10"
    ) as caught:
        for _ in islice(batches, 50):
            pass
    assert "\n" not in str(caught.value)
    assert "max_broken_fraction" in str(caught.value)


def test_nothing_but_broken_pictures(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    batches = loader(ImageFolder(tmp_path), max_broken_fraction=100)
    with pytest.raises(DataError, match=r"no picture could be read in its place either: .*x\.jpg"):
        next(iter(batches))


def test_the_threshold_by_hand() -> None:
    account = BrokenImages(max_fraction=0.1, grace=2)
    account.record(10, ["a", "b", "c"])  # 3 <= 2 + 1
    with pytest.raises(DataError, match=r"5 pictures of 20 drawn could not be read, more than 10\.0% and 2"):
        account.record(10, ["a", "d"])
    assert list(account.messages) == ["a", "b", "c", "d"]


def test_a_successor_takes_the_crops_of_the_draw(tmp_path: Path) -> None:
    """Index 2 is broken: drawn at position 5 it gives what index 3 gives at position 5."""
    dataset = with_broken(tmp_path, 1)
    samples = SeededSamples(dataset, seed=1)
    broken = next(i for i in range(7) if dataset.paths[i].endswith("a0.jpg"))
    stood_in, itself = samples[Draw(broken, 5)], samples[Draw(broken + 1, 5)]
    assert torch.equal(stood_in.views["global_crops"][0], itself.views["global_crops"][0])
    assert (len(stood_in.broken), len(itself.broken)) == (1, 0)
    assert SeededSamples(dataset, tries=1)[broken].views is None


def test_a_picture_is_cut_anew_at_every_draw(photos: ImageFolder) -> None:
    samples = SeededSamples(photos)
    first, again, later = (samples[Draw(2, p)].views["global_crops"][0] for p in (2, 2, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_an_error_of_the_transform_is_not_hidden(photos: ImageFolder, tmp_path: Path) -> None:
    dataset = ImageFolder(write_folder(tmp_path), transform=lambda image: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SeededSamples(dataset)[0]


# ---- several loaders ----------------------------------------------------------------------------


def combined(photos: ImageFolder, ratios: list[float]) -> CombinedDataLoader:
    return CombinedDataLoader(
        [loader(photos, batch_size=2, seed=seed) for seed in range(len(ratios))], ratios
    )


def test_loaders_take_turns_in_proportion(photos: ImageFolder) -> None:
    class Constant:
        def __init__(self, value: int) -> None:
            self.value = value

        def __iter__(self) -> Any:
            while True:
                yield self.value

    turns = CombinedDataLoader([Constant(i) for i in range(3)], [3, 0, 1])  # type: ignore[arg-type,misc]
    drawn: list[Any] = list(islice(turns, 2000))
    assert drawn.count(1) == 0
    assert 0.71 < drawn.count(0) / 2000 < 0.79
    again: list[Any] = list(islice(CombinedDataLoader([Constant(i) for i in range(3)], [3, 0, 1]), 2000))  # type: ignore[arg-type,misc]
    assert drawn == again


def test_several_loaders_go_on_exactly(photos: ImageFolder) -> None:
    whole = list(islice(combined(photos, [0.5, 0.5]), 9))
    stopped = combined(photos, [0.5, 0.5])
    seen = list(islice(stopped, 4))
    resumed = combined(photos, [0.5, 0.5])
    resumed.load_state_dict(stopped.state_dict())
    seen += islice(resumed, 5)
    assert all(same(a, b) for a, b in zip(whole, seen, strict=True))


def test_wrong_ratios_and_states(photos: ImageFolder) -> None:
    with pytest.raises(ConfigError, match="2 loaders with ratios"):
        CombinedDataLoader([loader(photos)] * 2, [1.0])
    with pytest.raises(ConfigError, match="wanted one ratio each, none below 0"):
        CombinedDataLoader([loader(photos)], [-1.0])
    with pytest.raises(ConfigError, match="state is of 1 loaders, this run has 2"):
        combined(photos, [1, 1]).load_state_dict({"steps": 0, "loaders": [{}]})
