"""Check labelled images before a long training, and split them by their content.

Each image is read once: one that cannot be decoded is quarantined now, not hours later. The split depends on
the bytes of the files and on the seed, never on names or order, and two copies of one image of a class are in
the same part.

Shapes: N images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinodeploy.arrays import IndexArray
from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.heads.labelled import TEST_SHARE, VALIDATION_SHARE, Split, read_mask
from dinodeploy.images.open import open_reduced, whole
from dinodeploy.pipeline.decode import default_decoders
from dinodeploy.tasks.dense import IGNORE


@dataclass(frozen=True)
class Verified:
    """Readable images: their rows among all, the SHA-256 of each, and pixels of each class of its mask."""

    rows: IndexArray
    digests: tuple[str, ...]
    pixels: tuple[IndexArray, ...]  # of masks: counts of the ids 0..255; without masks empty
    quarantined: tuple[tuple[str, str], ...]


def verify(
    ids: Sequence[str],
    masks: Sequence[Path] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> Verified:
    """Decode all images and masks once, on every core. Raises MisuseError if none can be read."""

    def check(index: int) -> tuple[str, IndexArray | None] | ImageError:
        try:
            _, size = open_reduced(ids[index], whole)
            digest = hashlib.sha256(Path(ids[index]).read_bytes()).hexdigest()
            return digest, pixels_of(masks[index], size) if masks else None
        except (ImageError, OSError) as error:
            return error if isinstance(error, ImageError) else ImageError(f"'{ids[index]}': {error}")

    rows: list[int] = []
    digests: list[str] = []
    pixels: list[IndexArray] = []
    quarantined = []
    with ThreadPoolExecutor(default_decoders()) as pool:
        for index, found in enumerate(pool.map(check, range(len(ids)))):
            if isinstance(found, ImageError):
                quarantined.append((ids[index], str(found)))
            else:
                rows.append(index)
                digests.append(found[0])
                if found[1] is not None:
                    pixels.append(found[1])
            progress(index + 1)
    if not rows:
        raise MisuseError(f"none of {len(ids)} images can be read: {quarantined[0][1]}")
    return Verified(np.array(rows, np.int64), tuple(digests), tuple(pixels), tuple(quarantined))


def pixels_of(mask: Path, size: tuple[int, int]) -> IndexArray:
    """Pixels [256] of each class id in a mask of an image of `size` (width, height). Raises ImageError."""
    ids = read_mask(mask)
    if ids.shape[::-1] != size:
        raise ImageError(
            f"'{mask}': {ids.shape[1]}x{ids.shape[0]} pixels, its image has "
            f"{size[0]}x{size[1]}; wanted the same"
        )
    if int(ids.max()) > IGNORE:
        raise ImageError(f"'{mask}': class id {int(ids.max())}; wanted at most {IGNORE}, which is ignored")
    return np.bincount(ids.ravel(), minlength=IGNORE + 1)


def split_by_content(
    digests: Sequence[str], seed: int, *, labels: IndexArray | None = None, test: bool = True
) -> Split:
    """A split of N images by the hash of seed and content; with `labels` [N], of every class on its own.

    Without `test` that part stays empty. Raises MisuseError for a class with too few different images.
    """
    groups = np.zeros(len(digests), np.int64) if labels is None else labels
    parts: list[list[int]] = [[], [], []]
    for group in np.unique(groups):
        rows: dict[str, list[int]] = {}  # copies of an image stay together
        for row in np.flatnonzero(groups == group).tolist():
            rows.setdefault(digests[row], []).append(row)
        order = sorted(rows, key=lambda digest: hashlib.sha256(f"{seed}/{digest}".encode()).digest())
        least = 3 if test else 2
        if len(order) < least:
            where = "" if labels is None else f" of class number {group}"
            raise MisuseError(f"{len(order)} different readable images{where}; wanted at least {least}")
        tests = max(1, round(TEST_SHARE * len(order))) if test else 0
        validation = max(1, round(VALIDATION_SHARE * (len(order) - tests)))
        pieces = order[tests + validation :], order[tests : tests + validation], order[:tests]
        for part, piece in zip(parts, pieces, strict=True):
            part += [row for digest in piece for row in rows[digest]]
    return Split(*(np.array(sorted(part), np.int64) for part in parts))
