"""Samples of a dataset, seeded by their position; broken images are skipped."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch.utils.data import Dataset

from dinov3_ref.data.seeding import Draw, derive_seed, torch_seed
from dinov3_ref.errors import BrokenImage


class ImageSource(Protocol):
    """What samplers and loaders need: any torch dataset (map style). `datasets/` has four."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


class Sample(NamedTuple):
    """An image after its transform. `Sample(*pair)` makes one of a (views, target) pair."""

    views: Any  # output of the transform; None if no image could be read
    target: Any = ()
    position: int | None = None  # number of the draw over all ranks; None if the sampler does not give it
    broken: tuple[str, ...] = ()  # one message per skipped image


class SeededSamples(Dataset[Sample]):
    """`source`, with each sample seeded by its position and broken images replaced by the next image.

    The replacement uses the random crops of the broken image's position, so other samples do not change.
    After `tries` broken images in a row the sample is empty (`views` None); tries=1 replaces nothing, for
    evaluations. Only `BrokenImage` is caught, not errors of the transform.
    """

    def __init__(self, source: ImageSource, seed: int = 0, tries: int = 10) -> None:
        self.source = source
        self.seed = seed
        self.tries = tries

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        position = index.position if isinstance(index, Draw) else None
        broken: list[str] = []
        for step in range(self.tries):
            try:
                views, target = self._read((int(index) + step) % len(self.source), position)
            except BrokenImage as error:
                broken.append(str(error))
            else:
                return Sample(views, target, position, tuple(broken))
        return Sample(None, (), position, tuple(broken))

    def _read(self, index: int, position: int | None) -> tuple[Any, Any]:
        if position is None:
            return self.source[index]
        with torch_seed(derive_seed(self.seed, "crops", position)):
            return self.source[index]
