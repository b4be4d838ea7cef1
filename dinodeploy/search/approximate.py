"""IVF-PQ for tables past 100,000 rows: how it is cut up, and how many partitions a search must look into.

Nobody can tell beforehand how many; so recall is measured on rows of the table itself against the exact
answer. More and more partitions are tried, up to all of them, and the fewest that reach the target are kept.

Sources: IVF-PQ is Jégou, Douze, Schmid, "Product quantization for nearest neighbor search", 2011; 4,096 rows
a partition is LanceDB's default.

Shapes: S sample rows, D dimension.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.search.index_manifest import Approximate
from dinodeploy.search.nearest import best_cosines
from dinodeploy.search.table import nearest_rows, to_numpy, vector_blocks

EXACT_BELOW = 100_000  # rows that are gone through one by one: half a second with 384 numbers each
TARGET = 0.95  # recall of the 10 nearest
K = 10
SAMPLE = 100  # rows that recall is measured on
REFINE = 10  # candidates a neighbour that are computed exactly

_PARTITION = 4096  # rows
_SUB_VECTOR = 8  # numbers
SAME = 1e-6  # cosines this near to each other are equal
_ITERATIONS = 12  # of k-means: enough for recall above the target, measured by every training
_TRAINING = 64  # rows a centre that k-means sees


def train(table: Any) -> Approximate:
    """Make the IVF-PQ index of a table, and measure how it has to be searched."""
    rows = table.count_rows()
    dim = table.schema.field("vector").type.list_size
    partitions, sub_vectors = cut(rows, dim)
    table.create_index(
        "vector",
        "IVF_PQ",
        metric="cosine",
        num_partitions=partitions,
        num_sub_vectors=sub_vectors,
        max_iters=_ITERATIONS,
        sample_rate=_TRAINING,
    )
    sample = np.linspace(0, rows - 1, min(SAMPLE, rows), dtype=np.int64)  # in ascending order: quick to take
    queries = to_numpy(table.take(sample.tolist(), columns=["vector"])["vector"])
    limits = best_cosines(queries, vector_blocks(table), K + 1)[:, K] - SAME
    nprobes = min(4, partitions)
    while True:
        recall = _recall(table, queries, limits, nprobes)
        if recall >= TARGET or nprobes == partitions:
            return Approximate(partitions, sub_vectors, nprobes, REFINE, round(recall, 4))
        nprobes = min(2 * nprobes, partitions)


def cut(rows: int, dim: int) -> tuple[int, int]:
    """Into how many partitions, and each vector into how many parts."""
    parts = max(count for count in range(1, max(1, dim // _SUB_VECTOR) + 1) if dim % count == 0)
    return max(1, rows // _PARTITION), parts


def _recall(table: Any, queries: FloatArray, limits: FloatArray, nprobes: int) -> float:
    """Share of each row's K neighbours that are found: rows at least as near as the last true one.

    Counted by cosine, so that it does not matter which of equal rows comes up; the row itself does not count.
    """
    search = {"nprobes": nprobes, "refine_factor": REFINE}
    found = 0
    for query, limit in zip(queries, limits.tolist(), strict=True):
        rows = nearest_rows(table, query, K + 1, ["vector"], search=search)
        near = int((to_numpy(rows["vector"]) @ query >= limit).sum())
        found += max(0, near - 1)
    return found / (K * len(queries))
