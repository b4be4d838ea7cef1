"""Which pictures a head is fitted on, chosen by, and judged on. Seeded: the same pictures, the same split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dinodeploy.arrays import IndexArray
from dinodeploy.errors import MisuseError

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.2  # of what is left


@dataclass(frozen=True)
class Split:
    """Row numbers, each in one part only."""

    train: IndexArray
    validation: IndexArray
    test: IndexArray

    @property
    def fitted(self) -> IndexArray:
        """What the final head is fitted on, once the penalty is chosen (docs/spec.md 5.3)."""
        return np.concatenate([self.train, self.validation])


def split_by_class(labels: IndexArray, classes: tuple[str, ...], seed: int, *, test: bool = True) -> Split:
    """Every class in every part. Raises MisuseError for a class with too few pictures to be in each."""
    rng = np.random.default_rng(seed)
    parts: list[list[IndexArray]] = [[], [], []]
    least = 3 if test else 2
    for index, name in enumerate(classes):
        rows = rng.permutation(np.flatnonzero(labels == index))
        if len(rows) < least:
            raise MisuseError(
                f"class {name!r} has {len(rows)} readable pictures; wanted at least {least}, to fit, to "
                "choose and to judge on"
            )
        for part, piece in zip(parts, _cut(rows, test), strict=True):
            part.append(piece)
    return Split(*(np.sort(np.concatenate(part)) for part in parts))


def split_at_random(count: int, seed: int) -> Split:
    """Raises MisuseError for less than three pictures."""
    if count < 3:
        raise MisuseError(f"{count} readable pictures; wanted at least 3, to fit, to choose and to judge on")
    rows = np.random.default_rng(seed).permutation(count).astype(np.int64)
    return Split(*(np.sort(piece) for piece in _cut(rows, True)))


def _cut(rows: IndexArray, test: bool) -> tuple[IndexArray, IndexArray, IndexArray]:
    """(train, validation, test), none empty but test where none is wanted."""
    tests = max(1, round(TEST_SHARE * len(rows))) if test else 0
    validation = max(1, round(VALIDATION_SHARE * (len(rows) - tests)))
    return rows[tests + validation :], rows[tests : tests + validation], rows[:tests]
