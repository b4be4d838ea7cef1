"""Near-duplicates: groups of images with almost equal embeddings, and which image of each group to keep.

Two images are in one group if their cosine reaches the threshold, or if a chain of such pairs connects them.
The largest image of a group is kept; of equally large ones, the first by id. Every pair is compared, block
by block: N² / 2 products, memory for N vectors and one block of cosines.

Shapes: N rows, B rows per block, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinodeploy.arrays import FloatArray, IndexArray
from dinodeploy.bundle.bundle import sha256_file
from dinodeploy.errors import MisuseError
from dinodeploy.search.build import vector_length
from dinodeploy.search.nearest import cosines
from dinodeploy.store.dtypes import unit_length
from dinodeploy.store.reader import open_embeddings

Pairs = tuple[IndexArray, IndexArray]

THRESHOLD = 0.97
BLOCK = 2048  # rows: 16 MiB of cosines
_ROUNDING = 1e-6  # largest error of float32 products; lets an image and its copy reach threshold 1


@dataclass(frozen=True)
class Member:
    """One image of a group. cosine: to the kept image. copy: the files are equal byte for byte."""

    id: str
    width: int
    height: int
    cosine: float
    copy: bool


@dataclass(frozen=True)
class Duplicates:
    """Groups of near-duplicates: in each, first the image to keep, then those to drop, most similar first."""

    rows: int
    threshold: float
    left_out: int  # images with a zero embedding
    groups: list[list[Member]]

    @property
    def drop(self) -> list[str]:
        """Ids of all grouped images except those to keep."""
        return [member.id for group in self.groups for member in group[1:]]


def find_duplicates(
    store: str | Path,
    *,
    threshold: float = THRESHOLD,
    output: str = "cls",
    advance: Callable[[int, int], None] = lambda done, failed: None,
) -> Duplicates:
    """Groups of near-duplicates in a store, largest group first. `advance(rows done, 0)` reports progress.

    Raises MisuseError for a threshold outside (0, 1], and what `build_index` raises for store and output.
    """
    if not 0 < threshold <= 1:
        raise MisuseError(f"--threshold is {threshold}; wanted a cosine above 0, at most 1")
    opened = open_embeddings(store)
    dim = vector_length(opened, output)
    ids: list[str] = []
    sizes = np.empty((opened.manifest.count, 2), np.int64)
    vectors = np.empty((opened.manifest.count, dim), np.float32)
    left_out = 0
    for names, column, shard_sizes in opened.sized_shards(output):
        rows, good = unit_length(column.values)
        begin, end = len(ids), len(ids) + int(good.sum())
        ids += [name for name, is_good in zip(names, good.tolist(), strict=True) if is_good]
        vectors[begin:end], sizes[begin:end] = rows[good], shard_sizes[good]
        left_out += len(names) - (end - begin)
    vectors, sizes = vectors[: len(ids)], sizes[: len(ids)]
    roots = _connect(vectors, threshold - _ROUNDING, advance)
    groups = [_group(rows, ids, sizes, vectors) for rows in _by_root(roots)]
    groups.sort(key=lambda group: (-len(group), group[0].id))
    return Duplicates(len(ids), threshold, left_out, groups)


def _connect(vectors: FloatArray, least: float, advance: Callable[[int, int], None]) -> IndexArray:
    """[N]: the smallest row of each row's group, by union-find over all pairs with a cosine of `least`."""
    parents = np.arange(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), BLOCK):
        rows = vectors[start : start + BLOCK]
        for other in range(start, len(vectors), BLOCK):
            similar = rows @ vectors[other : other + BLOCK].T
            left, right = np.nonzero(similar >= least)
            _unite(parents, left + start, right + other)
        advance(start + len(rows), 0)
    return _find(parents, np.arange(len(parents)))


def _unite(parents: IndexArray, left: IndexArray, right: IndexArray) -> None:
    """Join the groups of all pairs in one step; the smaller root becomes the root of both."""
    apart = left < right
    left, right = left[apart], right[apart]
    while len(left):
        left, right = _find(parents, left), _find(parents, right)
        apart = left != right
        left, right = np.minimum(left[apart], right[apart]), np.maximum(left[apart], right[apart])
        np.minimum.at(parents, right, left)


def _find(parents: IndexArray, rows: IndexArray) -> IndexArray:
    """The root of each of `rows`, with path compression."""
    roots = parents[rows]
    while (parents[roots] != roots).any():
        roots = parents[roots]
    parents[rows] = roots
    return roots


def _by_root(roots: IndexArray) -> list[IndexArray]:
    """The rows of each group of at least two."""
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
    return [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]


def _group(rows: IndexArray, ids: list[str], sizes: IndexArray, vectors: FloatArray) -> list[Member]:
    keep = min(rows.tolist(), key=lambda row: (-int(sizes[row].prod()), ids[row]))
    similar = cosines(vectors[rows], vectors[keep])
    members = [
        Member(ids[row], int(sizes[row, 0]), int(sizes[row, 1]), cosine, _is_copy(ids[row], ids[keep]))
        for row, cosine in zip(rows.tolist(), similar.tolist(), strict=True)
    ]
    return sorted(members, key=lambda member: (member.id != ids[keep], -member.cosine, member.id))


def _is_copy(id: str, kept: str) -> bool:
    """Whether two ids are local files with equal bytes. Only files of equal size are read."""
    paths = Path(id), Path(kept)
    try:
        if id == kept or not all(path.is_file() for path in paths):
            return False
        one, other = (path.stat().st_size for path in paths)
        return one == other and sha256_file(paths[0]) == sha256_file(paths[1])
    except (OSError, ValueError):  # deleted meanwhile, or not a path
        return False
