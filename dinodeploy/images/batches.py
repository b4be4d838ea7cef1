"""Group images into batches of one size: an engine takes [B,3,H,W], so H and W must agree within a batch.

    batches_of_one_size   keeps the order; a batch ends where the size changes
    gather_by_size        fills a batch from images that are not neighbours; the order changes

Both depend on the order of the items alone. Where all images have one size, both cut the listing into equal
parts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from dinodeploy.errors import MisuseError

Item = TypeVar("Item")
ShapeOf = Callable[[Item], Hashable]

MAX_WAITING = 8  # batches' worth of images that `gather_by_size` holds; then it yields the fullest group


def batches_of_one_size(
    items: Iterable[Item], batch_size: int, shape: ShapeOf[Any] = np.shape
) -> Iterator[list[Item]]:
    """Batches of at most `batch_size` consecutive items of equal `shape`. Raises MisuseError below 1."""
    _check(batch_size)
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == batch_size or shape(item) != shape(batch[0])):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def gather_by_size(items: Iterable[Item], batch_size: int, shape: ShapeOf[Any]) -> Iterator[list[Item]]:
    """Batches of at most `batch_size` items of equal `shape`, not always neighbours; the rest comes last.

    At most `MAX_WAITING` batches' worth of items are held. Raises MisuseError for a size below 1.
    """
    _check(batch_size)
    groups: dict[Hashable, list[Item]] = {}  # oldest first
    waiting = 0
    for item in items:
        key = shape(item)
        groups.setdefault(key, []).append(item)
        waiting += 1
        if len(groups[key]) < batch_size:
            if waiting < MAX_WAITING * batch_size:
                continue
            key = max(groups, key=lambda one: len(groups[one]))
        batch = groups.pop(key)
        waiting -= len(batch)
        yield batch
    yield from groups.values()


def _check(batch_size: int) -> None:
    if batch_size < 1:
        raise MisuseError(f"batch size is {batch_size}; wanted at least 1")
