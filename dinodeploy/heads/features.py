"""Engine features of labelled images, computed once and cached on disk.

    pooled   [2D]      CLS, then the mean patch: the input of a classifier (`pipeline/pooling.py`)
    map      [h,w,D]   the patch map: the input of a segmenter

The name of a cache file is a hash of everything that decides the numbers (engine, weights, preprocessing) and
of the images' paths, sizes and modification times. A damaged cache file is recomputed.

Shapes: N images, h w patch grid, D embed_dim.
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
from dinodeploy.embedder import Embedder
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files.json_file import parse_json
from dinodeploy.files.tensors import load_tensors, read_metadata, save_tensors
from dinodeploy.images.batches import batches_of_one_size
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.decode import Decoded, decode_ahead, default_decoders, images_ahead
from dinodeploy.pipeline.pooling import Outputs, pooled
from dinodeploy.pipeline.probe import limit_batch
from dinodeploy.pipeline.run_batches import run_batches
from dinodeploy.pipeline.runner import BATCH_SIZE

Advance = Callable[[int, int], None]

MAX_BYTES = 8 * 2**30  # of features held in memory
_VERSION = 2  # of the cache: raised when the same engine and images give other features
_QUARANTINED = "quarantined"  # metadata key of a cache file: [[id, reason], ...]


@dataclass(frozen=True)
class Features:
    """Features of the readable images, and why the others could not be read.

    rows: position of each readable image in the ids that were asked for.
    values: the pooled row or the patch map of each.
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
    """Features of the images `ids`: from the folder `cache` if it has them, else from the engine.

    Raises MisuseError where the features do not fit into memory.
    """
    path = cache / f"{_key(embedder, ids, maps)}.safetensors" if cache is not None else None
    if path is not None and path.is_file():
        try:
            return _load(path)
        except BundleError:  # truncated or damaged: compute it again
            path.unlink()
    if maps:
        _check_memory(embedder, len(ids))
    found = _compute(embedder, ids, maps, batch_size, advance)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"row_{row:09d}": value for row, value in zip(found.rows, found.values, strict=True)}
        save_tensors(path, tensors, {_QUARANTINED: json.dumps(found.quarantined)})
    return found


def run_readable(
    embedder: Embedder,
    ids: Sequence[str],
    preprocess: Preprocess,
    batch_size: int,
    unreadable: Callable[[Decoded], None],
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[tuple[list[Decoded], Outputs]]:
    """Run the engine on every readable image, in order: (images of a batch, their outputs).

    `unreadable` is called with each image that cannot be read, as it is met.
    """
    batch_size = limit_batch(batch_size, len(ids), embedder.backend.parallel_runs)
    decoders = default_decoders()

    def readable() -> Iterator[Decoded]:
        for item in decode_ahead(ids, preprocess, decoders, images_ahead(batch_size, decoders), limits):
            if item.pixels is not None:
                yield item
            else:
                unreadable(item)

    yield from run_batches(embedder, batches_of_one_size(readable(), batch_size, attrgetter("pixels.shape")))


def _key(embedder: Embedder, ids: Sequence[str], maps: bool) -> str:
    """Hash of everything that decides the features."""
    what = {
        "version": _VERSION,
        "engine": embedder.engine.fingerprint(embedder.preprocess),
        "runtime": embedder.backend.runtime,
        "maps": maps,
        "images": [(id_, *_stamp(id_)) for id_ in ids],
    }
    return hashlib.sha256(canonical(what).encode()).hexdigest()


def _stamp(id_: str) -> tuple[int, int]:
    """Size and modification time of a file."""
    try:
        status = Path(id_).stat()
    except OSError:  # decoding quarantines it with the reason
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _check_memory(embedder: Embedder, count: int) -> None:
    preprocess, dim = embedder.preprocess, embedder.manifest.model.embed_dim
    patches = preprocess.height * preprocess.width // preprocess.patch_size**2
    size = 4 * count * patches * dim
    if size > MAX_BYTES:
        raise MisuseError(
            f"the patch features of {count} images take {size / 2**30:.0f} GiB; wanted at most "
            f"{MAX_BYTES / 2**30:.0f} GiB: use at most {MAX_BYTES // (4 * patches * dim)} images"
        )


def _compute(
    embedder: Embedder, ids: Sequence[str], maps: bool, batch_size: int, advance: Advance
) -> Features:
    rows: list[int] = []
    values: list[FloatArray] = []
    quarantined: list[tuple[str, str]] = []

    def unreadable(item: Decoded) -> None:
        quarantined.append((item.id, item.reason))
        advance(len(values), len(quarantined))

    for batch, outputs in run_readable(embedder, ids, embedder.preprocess, batch_size, unreadable):
        rows += [item.position for item in batch]
        values += [np.array(row) for row in (outputs["patch"] if maps else pooled(outputs))]
        advance(len(values), len(quarantined))
    return Features(np.array(rows, np.int64), tuple(values), tuple(quarantined))


def _load(path: Path) -> Features:
    metadata = read_metadata(path)
    try:
        listed = parse_json(metadata[_QUARANTINED], f"{path}: {_QUARANTINED}", "ids")
        quarantined = tuple((str(id_), str(reason)) for id_, reason in listed)
        tensors = {int(name.removeprefix("row_")): tensor for name, tensor in load_tensors(path).items()}
    except (KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{path} holds no features") from error
    rows = sorted(tensors)
    return Features(np.array(rows, np.int64), tuple(tensors[row] for row in rows), quarantined, cached=True)
