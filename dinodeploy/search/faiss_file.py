"""Write the vectors of an index as a FAISS file, for other tools.

    FILE             IndexFlatIP; from 100,000 rows on IndexIVFPQ. Vectors have length 1, so inner products
                     are cosines
    FILE.ids.json    the ids of its rows, in order, because FAISS only numbers rows

FAISS stores product-quantised vectors only, so its recall is below that of our index, which refines its
candidates exactly. The file contains the measured `nprobe`.

Shapes: n rows, D dimension.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import MisuseError, UnavailableError
from dinodeploy.files import atomic
from dinodeploy.search.approximate import EXACT_BELOW, SAME, SAMPLE, TARGET, K, cut
from dinodeploy.search.index import Index
from dinodeploy.search.nearest import best_cosines

_TRAINING = 64  # k-means training rows per centre


@dataclass(frozen=True)
class FaissFile:
    """What was written. recall: recall@10; 1 if the search is exact."""

    path: str
    ids: str
    kind: str
    rows: int
    recall: float


def check_faiss_target(path: Path) -> None:
    """Raise UnavailableError without FAISS, MisuseError if `path` cannot be written."""
    if not importlib.util.find_spec("faiss"):
        raise UnavailableError("--faiss needs faiss-cpu, which is missing; pip install 'dinodeploy[faiss]'")
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise MisuseError(f"--faiss {path}: {what}; wanted a file in an existing folder")


def export_faiss(index: Index, path: str | Path, *, exact_below: int = EXACT_BELOW) -> FaissFile:
    """Write a FAISS index of `index`, and its ids beside it. Raises as `check_faiss_target`."""
    target = Path(path)
    check_faiss_target(target)
    import faiss

    is_exact = len(index) < exact_below
    made = faiss.IndexFlatIP(index.manifest.dim) if is_exact else _train(index)
    for block in index.vectors():
        made.add(np.ascontiguousarray(block))
    recall = 1.0 if is_exact else _choose_nprobe(made, index)
    with atomic.atomic_file(target) as file:
        faiss.write_index(made, file.name)  # FAISS opens the file by name
    names = target.with_name(f"{target.name}.ids.json")
    with atomic.atomic_file(names) as file:
        file.write(json.dumps(index.ids(), ensure_ascii=False).encode())
    return FaissFile(str(target), str(names), type(made).__name__, len(index), recall)


def _train(index: Index) -> Any:
    """An empty IVF-PQ index, trained on rows spread over the table."""
    import faiss

    dim = index.manifest.dim
    partitions, sub_vectors = cut(len(index), dim)
    quantizer = faiss.IndexFlatIP(dim)
    made = faiss.IndexIVFPQ(quantizer, dim, partitions, sub_vectors, 8, faiss.METRIC_INNER_PRODUCT)
    made.train(_every(index, _TRAINING * max(partitions, 256)))
    return made


def _every(index: Index, count: int) -> FloatArray:
    """At least `count` rows, evenly spaced over the table; all rows if there are fewer."""
    return index.take(np.arange(0, len(index), max(1, len(index) // count)))


def _choose_nprobe(made: Any, index: Index) -> float:
    """Double `made.nprobe` until recall reaches the target or all partitions are probed; return recall."""
    queries = _every(index, SAMPLE)[:SAMPLE]
    limits = best_cosines(queries, index.vectors(), K + 1)[:, K] - SAME
    made.nprobe = min(4, made.nlist)
    while True:
        _, rows = made.search(queries, K + 1)
        found = index.take(rows[rows >= 0])
        numbers = np.nonzero(rows >= 0)[0]
        near = (found * queries[numbers]).sum(axis=1) >= limits[numbers]
        counts = np.bincount(numbers[near], minlength=len(queries))
        recall = float(np.maximum(counts - 1, 0).sum() / (K * len(queries)))
        if recall >= TARGET or made.nprobe == made.nlist:
            return round(recall, 4)
        made.nprobe = min(2 * made.nprobe, made.nlist)
