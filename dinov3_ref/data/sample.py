"""One drawn sample, and the wrapper that draws it: seeded by its position, broken pictures stepped over."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch.utils.data import Dataset

from dinov3_ref.data.seeding import Draw, derive_seed, torch_seed
from dinov3_ref.errors import BrokenImage


class ImageSource(Protocol):
    """What the samplers and loaders need of a dataset; `datasets/` has four, any torch dataset will do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


class Sample(NamedTuple):
    """A picture after its transform. Plain (views, target) pairs of other datasets become one by `*`."""

    views: Any  # what the transform made; None if no picture could be read
    target: Any = ()
    position: int | None = None  # of the draw, over all ranks; None if the sampler does not tell
    broken: tuple[str, ...] = ()  # a line for every picture that was stepped over


class SeededSamples(Dataset[Sample]):
    """`source`, with every draw seeded by its position and broken pictures replaced by their successors.

    A successor takes the crops of the draw it stands in for, so the order of all other draws is untouched.
    After `tries` broken pictures in a row the sample is empty (`views` None): 1 replaces none, as
    evaluations want it. Only `BrokenImage` is caught: an error of a transform stays an error.
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
