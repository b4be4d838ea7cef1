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
from collections.abc import Iterator
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
    """Write the vectors of `index` as a FAISS index, and their ids in a second file.

    Raises what `check_faiss_target` raises.
    """
    target = Path(path)
    check_faiss_target(target)
    import faiss

    if len(index) < exact_below:
        made, recall = faiss.IndexFlatIP(index.manifest.dim), 1.0
        _add(made, index)
    else:
        made = _train(index)
        _add(made, index)
        recall = _choose_nprobe(made, index)
    with atomic.atomic_file(target) as file:
        faiss.write_index(made, file.name)  # FAISS opens the file by name
    names = target.with_name(f"{target.name}.ids.json")
    with atomic.atomic_file(names) as file:
        file.write(json.dumps(index.ids(), ensure_ascii=False).encode())
    return FaissFile(str(target), str(names), type(made).__name__, len(index), recall)


def _add(made: Any, index: Index) -> None:
    for block in index.vectors():
        made.add(np.ascontiguousarray(block))


def _train(index: Index) -> Any:
    """An empty IVF-PQ index, trained on rows spread over the table."""
    import faiss

    dim = index.manifest.dim
    partitions, sub_vectors = cut(len(index), dim)
    quantizer = faiss.IndexFlatIP(dim)
    made = faiss.IndexIVFPQ(quantizer, dim, partitions, sub_vectors, 8, faiss.METRIC_INNER_PRODUCT)
    wanted = _TRAINING * max(partitions, 256)
    step = max(1, len(index) // wanted)
    made.train(np.concatenate(list(_every(index, step))))
    return made


def _every(index: Index, step: int) -> Iterator[FloatArray]:
    """Every `step`-th row, block by block."""
    begin = 0
    for block in index.vectors():
        yield block[-begin % step :: step]
        begin += len(block)


def _choose_nprobe(made: Any, index: Index) -> float:
    """Double `made.nprobe` until recall reaches the target or all partitions are probed; return recall."""
    queries = np.concatenate(list(_every(index, max(1, len(index) // SAMPLE))))[:SAMPLE]
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
