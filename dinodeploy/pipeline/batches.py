"""Batches of pictures of one size, each size in a bucket of its own.

Where all are of one size, batches are the listing cut up. With keep-aspect, neighbours in the listing differ
in size, and a batch gathers those of one size. Which pictures meet in a batch depends on the listing alone.

Shapes: B batch, H, W input pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.pipeline.decode import Decoded

MOST_WAITING = 8  # batches' worth of pictures that may wait in buckets; then the fullest bucket is run


def bucket(items: Iterable[Decoded], batch_size: int) -> Iterator[list[Decoded]]:
    """Batches of at most `batch_size` pictures of equal size, and at the end what remains, oldest first."""
    buckets: dict[tuple[int, ...], list[Decoded]] = {}
    waiting = 0
    for item in items:
        assert item.pixels is not None, "only what could be read is run"
        shape = item.pixels.shape
        buckets.setdefault(shape, []).append(item)
        waiting += 1
        if len(buckets[shape]) < batch_size:
            if waiting < MOST_WAITING * batch_size:
                continue
            shape = max(buckets, key=lambda key: len(buckets[key]))
        batch = buckets.pop(shape)
        waiting -= len(batch)
        yield batch
    yield from buckets.values()


def stack(batch: list[Decoded]) -> FloatArray:
    """[B,3,H,W]."""
    return np.stack([item.pixels for item in batch if item.pixels is not None])
