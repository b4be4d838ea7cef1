"""Can an index that was built with one engine be searched with another? (`dinodeploy check --against`)

Both engines embed the same images, each with its own preprocessing, CLS only. Then

    cosine     of the two embeddings of an image: smallest and mean
    recall@k   share of an image's k nearest neighbours in the index that a query with the other engine's
               embedding still finds; averaged over images, without the image itself

are compared with one table of limits. Shapes: N images, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import FloatArray
from dinodeploy.embedder import Embedder
from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.images.open import open_image
from dinodeploy.parity.judge import cosine, unit_rows

Advance = Callable[[int, int], None]  # (embedded, failed) so far

CHUNK = 64  # images in memory, with their patch maps
QUERIES = 1024  # rows of the similarity matrix in memory
FEW = 10  # images per neighbour below which recall says little


@dataclass(frozen=True)
class Criterion:
    """What a measurement must reach for the index to stay, and why that much."""

    metric: str
    at_least: float
    reason: str


# Measured, cosine_min, cosine_mean, recall: ViT-S, lively random weights, 120 crops of photographs, k 10.
#   fp32 against fp16            0.9999997   0.9999998   1.000
#   fp32 against bf16            0.999984    0.999988    0.998
#   preset official against hf   0.975       0.992       0.957
#   other weights                -0.07       -0.02       0.017
CRITERIA: tuple[Criterion, ...] = (
    Criterion("cosine_min", 0.99, "near-duplicates have 0.986 (a stereo pair); no image may move as far"),
    Criterion("cosine_mean", 0.995, "cosine thresholds tuned on the index keep their meaning to 0.005"),
    Criterion("recall", 0.95, "one neighbour in twenty may change, as in an approximate index"),
)


@dataclass(frozen=True)
class Finding:
    """One criterion and what was found. `value` None: not finite."""

    metric: str
    value: float | None
    at_least: float
    passed: bool
    reason: str


@dataclass(frozen=True)
class Comparison:
    """The index of `bundle`, searched with `other`."""

    bundle: str
    other: str
    k: int
    images: int
    skipped: tuple[str, ...]  # images that cannot be read
    findings: tuple[Finding, ...]
    worst_image: str | None  # the image with the smallest cosine
    note: str
    reindex: bool

    @property
    def verdict(self) -> str:
        return f"reindex: {'yes' if self.reindex else 'no'}"


def compare(
    bundle: str | Path,
    other: str | Path,
    images: Sequence[str],
    *,
    k: int = 10,
    threads: int | None = None,
    require_signature: Path | None = None,
    advance: Advance = lambda embedded, failed: None,
) -> Comparison:
    """Embed `images` (ids, as `listing.py` gives them) with both engines and compare.

    Raises MisuseError for k < 1 and for too few readable images: with k + 1 every search has one answer
    only. Raises as `Embedder.open` for an engine that may not be used here.
    """
    if k < 1:
        raise MisuseError(f"-k is {k}; wanted at least 1")
    _enough(len(images), k)
    opening: dict[str, Any] = {"threads": threads, "require_signature": require_signature}
    with Embedder.open(bundle, **opening) as a, Embedder.open(other, **opening) as b:
        widths = a.manifest.model.embed_dim, b.manifest.model.embed_dim
        if widths[0] != widths[1]:
            note = f"embeddings have {widths[0]} and {widths[1]} numbers: they cannot be compared at all"
            return Comparison(str(bundle), str(other), k, 0, (), (), None, note, reindex=True)
        ids, skipped, index, queries = _embed_both(a, b, images, advance)
    _enough(len(ids), k)
    cosines = cosine(index.astype(np.float64), queries.astype(np.float64))
    values = (float(cosines.min()), float(cosines.mean()), search_recall(index, queries, k))
    findings = tuple(
        Finding(c.metric, value if np.isfinite(value) else None, c.at_least, value >= c.at_least, c.reason)
        for c, value in zip(CRITERIA, values, strict=True)
    )
    few = f"{len(ids)} images for {k} neighbours: recall says little below {FEW * k}"
    return Comparison(
        str(bundle),
        str(other),
        k,
        len(ids),
        tuple(skipped),
        findings,
        ids[int(np.argmin(cosines))],
        few if len(ids) < FEW * k else "",
        reindex=not all(finding.passed for finding in findings),
    )


def search_recall(index: FloatArray, queries: FloatArray, k: int) -> float:
    """Share of the k nearest rows of `index` [N,D] to each of its rows that `queries` [N,D] find too.

    By cosine; a row never counts as its own neighbour. Needs N > k.
    """
    index, queries = unit_rows(index), unit_rows(queries)
    shared = 0
    for start in range(0, len(index), QUERIES):
        rows = np.arange(start, min(start + QUERIES, len(index)))
        wanted, got = (_nearest(side[rows], index, rows, k) for side in (index, queries))
        shared += sum(len(set(a) & set(b)) for a, b in zip(wanted.tolist(), got.tolist(), strict=True))
    return shared / (k * len(index))


def _nearest(queries: FloatArray, index: FloatArray, rows: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """[Q,k] rows of `index` nearest to unit `queries` [Q,D], which are its own `rows`."""
    similarity = queries @ index.T
    similarity[np.arange(len(rows)), rows] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def _enough(images: int, k: int) -> None:
    if images < k + 2:
        raise MisuseError(
            f"{images} readable images for {k} neighbours; wanted at least {k + 2}, better {FEW * k}: "
            "give more --images or a smaller -k"
        )


def _embed_both(
    a: Embedder, b: Embedder, images: Sequence[str], advance: Advance
) -> tuple[list[str], list[str], FloatArray, FloatArray]:
    """Ids that could be read, those that could not, and both engines' CLS [N,D] of the former."""
    ids: list[str] = []
    skipped: list[str] = []
    rows: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for start in range(0, len(images), CHUNK):
        opened = []
        for id_ in images[start : start + CHUNK]:
            try:
                opened.append(open_image(id_))
                ids.append(id_)
            except ImageError:
                skipped.append(id_)
        for embedder, side in zip((a, b), rows, strict=True):
            side.append(embedder.embed(opened)["cls"])
        advance(len(ids), len(skipped))
    index, queries = (np.concatenate(side) for side in rows)
    return ids, skipped, index, queries
