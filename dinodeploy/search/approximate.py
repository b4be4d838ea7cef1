"""Approximate search with IVF-PQ for tables from 100,000 rows on: partitioning, training, measured recall.

How many partitions a search must probe depends on the data, so recall is measured on rows of the table
against the exact answer. The number of probed partitions is doubled until recall reaches the target.

Sources: IVF-PQ is Jégou, Douze, Schmid, "Product quantization for nearest neighbor search", 2011; 4,096 rows
per partition is LanceDB's default.

Shapes: S sample rows, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.search.index_manifest import Approximate
from dinodeploy.search.nearest import best_cosines
from dinodeploy.search.table import nearest_rows, to_numpy, vector_blocks

EXACT_BELOW = 100_000  # rows; below, a search compares all of them: half a second for D = 384
TARGET = 0.95  # recall@10
K = 10
SAMPLE = 100  # rows used as queries to measure recall
REFINE = 10  # exactly computed candidates per neighbour

PARTITION = 4096  # rows per partition
_SUB_VECTOR = 8  # dimensions per sub-vector
SAME = 1e-6  # cosines closer than this count as equal
_ITERATIONS = 12  # of k-means; every training measures whether recall reaches the target
_MOST_INDICES = 1000  # every update leaves one index; more are never left
_TRAINING = 64  # k-means training rows per centre


def train(table: Any) -> Approximate:
    """Build the IVF-PQ index of a table and measure how many partitions a search must probe."""
    rows = table.count_rows()
    dim = table.schema.field("vector").type.list_size
    partitions, sub_vectors = cut(rows, dim)
    table.create_index(
        "vector",
        "IVF_PQ",
        metric="cosine",
        num_partitions=partitions,
        num_sub_vectors=sub_vectors,
        replace=True,
        max_iters=_ITERATIONS,
        sample_rate=_TRAINING,
    )
    return measure(table, partitions, sub_vectors)


def follow(table: Any, how: Approximate | None, log: Callable[[str], None]) -> Approximate:
    """Make the index of a table cover rows that were appended; train again if the table has grown a lot."""
    partitions, _ = cut(table.count_rows(), table.schema.field("vector").type.list_size)
    if how is None or partitions > 2 * how.partitions:
        log(f"training IVF-PQ on {table.count_rows()} rows")
        return train(table)
    table.optimize.optimize_indices(num_indices_to_merge=_MOST_INDICES)
    return measure(table, how.partitions, how.sub_vectors)


def measure(table: Any, partitions: int, sub_vectors: int) -> Approximate:
    """How many partitions a search must probe, by searches for rows of the table."""
    rows = table.count_rows()
    sample = np.linspace(0, rows - 1, min(SAMPLE, rows), dtype=np.int64)  # ascending: fast to read
    queries = to_numpy(table.take(sample.tolist(), columns=["vector"])["vector"])
    limits = best_cosines(queries, vector_blocks(table), K + 1)[:, K] - SAME
    nprobes = min(4, partitions)
    while True:
        recall = _recall(table, queries, limits, nprobes)
        if recall >= TARGET or nprobes == partitions:
            return Approximate(partitions, sub_vectors, nprobes, REFINE, round(recall, 4))
        nprobes = min(2 * nprobes, partitions)


def cut(rows: int, dim: int) -> tuple[int, int]:
    """(number of partitions, sub-vectors per vector)."""
    parts = max(count for count in range(1, max(1, dim // _SUB_VECTOR) + 1) if dim % count == 0)
    return max(1, rows // PARTITION), parts


def _recall(table: Any, queries: FloatArray, limits: FloatArray, nprobes: int) -> float:
    """Recall@K: share of found rows whose cosine reaches that of the K-th true neighbour.

    Counting by cosine makes equal rows interchangeable. The query row itself does not count.
    """
    search = {"nprobes": nprobes, "refine_factor": REFINE}
    found = 0
    for query, limit in zip(queries, limits.tolist(), strict=True):
        rows = nearest_rows(table, query, K + 1, ["vector"], search=search)
        near = int((to_numpy(rows["vector"]) @ query >= limit).sum())
        found += max(0, near - 1)
    return found / (K * len(queries))
