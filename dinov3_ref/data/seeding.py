"""Randomness that depends on which sample is drawn, and on nothing else.

Every draw of a training run has a number, its position, counted from 0 over all ranks. Crops and masks are
seeded by it, so they are the same with any number of workers or ranks, and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch


class Draw(int):
    """An index into a dataset that remembers the position of its draw. To a dataset it is a plain int."""

    position: int

    def __new__(cls, index: int, position: int) -> Draw:
        draw = super().__new__(cls, index)
        draw.position = position
        return draw

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]  # to worker processes
        return int(self), self.position


def derive_seed(*parts: int | str) -> int:
    """63 well-mixed bits from any numbers and words: near seeds give unrelated streams."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Inside, torch's CPU generator starts from `seed`; afterwards it goes on as if nothing had been.

    torchvision's transforms draw from that generator alone.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
