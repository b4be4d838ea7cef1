"""Random numbers that depend only on the position of a sample.

The samples of a training run are numbered from 0 over all ranks: their position. Crops and masks are seeded
by it, so they do not depend on the number of workers or ranks, and are the same after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch


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
