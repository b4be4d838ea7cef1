"""What an engine puts out for labelled pictures, computed once and kept on disk.

    pooled   [N,2D]    CLS, then the mean patch: what a classifier reads
    maps     [h,w,D]   the patch map of every picture: what a segmenter reads

A cache file is named by the hash of everything that decides its numbers (engine, weights, preprocessing) and
of the pictures' paths, sizes and times of change. A damaged one is computed anew.

Shapes: N pictures, h w patch grid, D embed_dim.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np

from dinodeploy.arrays import FloatArray, IndexArray
from dinodeploy.bundle.manifest import canonical
from dinodeploy.embedder import BATCH_SIZE, Embedder, batches_of_one_size
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files.tensorfile import load_tensors, read_header, save_tensors
from dinodeploy.pipeline import (
    Decoded,
    decode_ahead,
    default_decoders,
    limit_batch,
    pictures_ahead,
    run_ahead,
)

Advance = Callable[[int, int], None]

MAX_BYTES = 8 * 2**30  # of features held in memory
_REASONS = "quarantined"  # key of the metadata: [[id, reason], ...]


@dataclass(frozen=True)
class Features:
    """Features of the pictures that could be read, and why the others could not.

    `rows`: index of each among the pictures asked for. `values`: pooled rows, or maps.
    """

    rows: IndexArray
    values: tuple[FloatArray, ...]
    quarantined: tuple[tuple[str, str], ...]
    cached: bool = False


def engine_features(
    embedder: Embedder,
    ids: Sequence[str],
    *,
    maps: bool,
    cache: Path | None,
    batch_size: int = BATCH_SIZE,
    advance: Advance = lambda done, failed: None,
) -> Features:
    """Run `ids` through the engine, or read what a run before this one left in `cache`.

    Raises MisuseError where the features would not fit into memory.
    """
    path = cache / f"{_key(embedder, ids, maps)}.safetensors" if cache is not None else None
    if path is not None and path.is_file():
        try:
            return _load(path)
        except BundleError:  # cut off or damaged: it is only a cache
            path.unlink()
    if maps:
        _check_memory(embedder, len(ids))
    found = _compute(embedder, ids, maps, batch_size, advance)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"row_{row:09d}": value for row, value in zip(found.rows, found.values, strict=True)}
        save_tensors(path, tensors, {_REASONS: json.dumps(found.quarantined)})
    return found


def _key(embedder: Embedder, ids: Sequence[str], maps: bool) -> str:
    decisive = embedder.manifest.fingerprint(embedder.bundle.engine, embedder.preprocess)
    pictures = [(id_, *_stamp(id_)) for id_ in ids]
    what = {"engine": decisive, "runtime": embedder.backend.runtime, "maps": maps, "pictures": pictures}
    return hashlib.sha256(canonical(what).encode()).hexdigest()


def _stamp(id_: str) -> tuple[int, int]:
    try:
        status = Path(id_).stat()
    except OSError:  # it will be quarantined with a better word
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _check_memory(embedder: Embedder, count: int) -> None:
    preprocess, dim = embedder.preprocess, embedder.manifest.model.embed_dim
    patches = preprocess.height * preprocess.width // preprocess.patch_size**2
    needed = 4 * count * patches * dim
    if needed > MAX_BYTES:
        fitting = MAX_BYTES // (4 * patches * dim)
        raise MisuseError(
            f"{count} pictures give {needed / 2**30:.0f} GiB of patch features; wanted at most "
            f"{MAX_BYTES / 2**30:.0f}: take {fitting} of them"
        )


def _compute(
    embedder: Embedder, ids: Sequence[str], maps: bool, batch_size: int, advance: Advance
) -> Features:
    rows: list[int] = []
    values: list[FloatArray] = []
    quarantined: list[tuple[str, str]] = []
    batch_size = limit_batch(batch_size, len(ids), embedder.backend.lanes)
    decoders = default_decoders()

    def good() -> Iterator[Decoded]:
        decoded = decode_ahead(ids, embedder.preprocess, decoders, pictures_ahead(batch_size, decoders))
        for row, item in enumerate(decoded):
            if item.pixels is not None:
                rows.append(row)
                yield item
            else:
                quarantined.append((item.id, item.reason))
                advance(len(values), len(quarantined))

    batches = batches_of_one_size(good(), batch_size, attrgetter("pixels.shape"))
    for _, outputs in run_ahead(embedder, batches):
        made = outputs["patch"] if maps else pooled(outputs["cls"], outputs["patch"])
        values += [np.array(row) for row in made]
        advance(len(values), len(quarantined))
    return Features(np.array(rows, np.int64), tuple(values), tuple(quarantined))


def pooled(cls: FloatArray, patch: FloatArray) -> FloatArray:
    """cls [B,D], patch [B,h,w,D] -> [B,2D]: what a linear classifier is released for (docs/spec.md 5.2)."""
    return np.concatenate([cls, patch.mean(axis=(1, 2))], axis=1)


def _load(path: Path) -> Features:
    _, metadata = read_header(path)
    try:
        quarantined = tuple((str(id_), str(reason)) for id_, reason in json.loads(metadata[_REASONS]))
        tensors = {int(name.removeprefix("row_")): tensor for name, tensor in load_tensors(path).items()}
    except (KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{path} holds no features") from error
    rows = sorted(tensors)
    return Features(np.array(rows, np.int64), tuple(tensors[row] for row in rows), quarantined, cached=True)
