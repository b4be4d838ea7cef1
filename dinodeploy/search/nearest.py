"""Cosines, and exact nearest neighbours block by block in constant memory.

Shapes: N or n rows, Q queries, D dimension.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import FloatArray


def best_cosines(queries: FloatArray, blocks: Iterable[FloatArray], k: int) -> FloatArray:
    """[Q, k] cosines of the rows of `blocks` [n, D] nearest to `queries`, best first; -inf past the last."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    for block in blocks:
        similar = np.concatenate([best, queries @ block.T], axis=1)
        best = -np.partition(-similar, k - 1, axis=1)[:, :k]
    return -np.sort(-best, axis=1)


def cosines(rows: FloatArray, query: FloatArray) -> NDArray[np.float64]:
    """[n, D] and [D] -> [n] in float64, row by row: equal rows have bit-equal cosines."""
    wide, one = rows.astype(np.float64), query.astype(np.float64)
    products = (wide * one).sum(axis=1)
    lengths = np.sqrt((wide * wide).sum(axis=1)) * np.sqrt((one * one).sum())
    return np.clip(products / lengths, -1.0, 1.0)
