"""Samples of a dataset, seeded by their position; broken images are skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import Dataset

from dinov3_ref.errors import BrokenImage, DataError


class Draw(int):
    """An index into a dataset (an int) that also has the position of the draw."""

    position: int

    def __new__(cls, index: int, position: int) -> Draw:
        draw = super().__new__(cls, index)
        draw.position = position
        return draw

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]  # for pickling to workers
        return int(self), self.position


def derive_seed(*parts: int | str) -> int:
    """Hash numbers and words to a 63-bit seed: similar inputs give unrelated seeds."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the context, and restore its state afterwards.

    torchvision's transforms use only that generator.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


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


MAX_MESSAGES = 100  # kept for a report


@dataclass
class BrokenImages:
    """Number of samples drawn and of broken images skipped. An image that is drawn twice counts twice.

    Up to `grace` + `max_fraction` · drawn broken images are tolerated.
    """

    max_fraction: float = 0.01
    grace: int = 10
    drawn: int = 0
    skipped: int = 0
    messages: dict[str, None] = field(default_factory=dict)  # an ordered set

    def record(self, drawn: int, broken: Sequence[str]) -> None:
        """Add a batch. Raises `DataError` if there are too many broken images."""
        self.drawn += drawn
        self.skipped += len(broken)
        for message in broken[: MAX_MESSAGES - len(self.messages)]:
            self.messages[message] = None
        if self.skipped > self.grace + self.max_fraction * self.drawn:
            raise DataError(
                f"{self.skipped} images of {self.drawn} samples could not be read, more than "
                f"{self.max_fraction:.1%} plus {self.grace}; the last: {broken[-1]}; fix or remove them, or "
                "raise max_broken_fraction"
            )
