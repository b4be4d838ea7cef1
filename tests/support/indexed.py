"""Stores of random vectors, for tests of index, search and near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from tests.support.stores import write_store

D = 12


def vectors_of(count: int, seed: int = 0, dim: int = D) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def clustered(count: int, dim: int, clusters: int, seed: int = 0) -> FloatArray:
    """Vectors in clusters, as embeddings are, so that they have real neighbours."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim)).astype(np.float32)
    noise = rng.standard_normal((count, dim), np.float32)
    return centres[rng.integers(0, clusters, count)] + np.float32(0.5) * noise


def store_of(out: Path, vectors: FloatArray, ids: Sequence[str] | None = None, **options: Any) -> list[str]:
    """A store of `vectors` [N, D] as `cls`; the widths of its images count up from 600. Returns the ids."""
    names = list(ids) if ids is not None else [f"p{index}.jpg" for index in range(len(vectors))]
    sizes = [(600 + index, 400) for index in range(len(names))]
    rows = [{"cls": row} for row in vectors]
    write_store(out, names, rows, sizes=sizes, **({"shard_size": 7} | options))
    return names


def ranked(vectors: FloatArray, query: FloatArray, ids: Sequence[str]) -> list[str]:
    """The ids ordered by cosine to `query`: the expected result of every search."""
    wide = vectors.astype(np.float64)
    cosines = (wide @ query) / np.linalg.norm(wide, axis=1)
    return [id_ for _, id_ in sorted(zip((-cosines).tolist(), ids, strict=True))]
