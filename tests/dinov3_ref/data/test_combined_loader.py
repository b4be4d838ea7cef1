"""Several loaders, chosen at random with given ratios, resumable."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from dinov3_ref.data.combined_loader import CombinedDataLoader
from dinov3_ref.data.datasets import ImageFolder
from dinov3_ref.errors import ConfigError
from tests.support.image_files import write_folder
from tests.support.training_batches import augment, loader, same


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return ImageFolder(write_folder(tmp_path_factory.mktemp("photos")), transform=augment)


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


def test_an_interrupted_loader_resumes_exactly(photos: ImageFolder) -> None:
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
