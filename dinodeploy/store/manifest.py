"""embeddings.json, the root of a store: what it holds, and every file that belongs to it.

It is written last, so a directory that has it is complete. `reader.py` reads it first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinodeploy.errors import BundleError
from dinodeploy.files import schema
from dinodeploy.store.dtypes import Dtype
from dinodeploy.store.plan import read_plan
from dinodeploy.store.shard import Shape, count_finished

FILE_NAME = "embeddings.json"
QUARANTINE = "quarantine.jsonl"
VERSION = 2
_READABLE = (1, 2)  # version 1 had no `plan`, and float32 only


@dataclass(frozen=True)
class ShardFacts:
    """Number of rows, and sha256 of each file by its path in the store. A shard without rows has no file."""

    rows: int
    files: dict[str, str]


@dataclass(frozen=True)
class ColumnFacts:
    """One output: the shape of a row, with null for a side that differs between rows; null without rows.

    dtype: on disk; it is read as float32. int8 has a second column `<output>_scale` (`dtypes.py`).
    """

    shape: Shape | None
    dtype: Dtype = "float32"


@dataclass(frozen=True)
class PlanFacts:
    """How the listing was cut: shard i holds the images from i * shard_size on.

    listing_sha256: see `plan.hash_listing`. pictures: number of images, quarantined ones included.
    """

    listing_sha256: str
    pictures: int
    shard_size: int


@dataclass(frozen=True)
class StoreManifest:
    """Root of embeddings.json. fingerprint: what determines the numbers (model, engine, preprocessing).

    normalize: every vector, the last axis of an output, was scaled to length 1; a vector of zeros was not.
    """

    version: int
    format: str
    outputs: dict[str, ColumnFacts]
    count: int
    quarantined: int
    shards: list[ShardFacts]
    fingerprint: dict[str, Any]
    plan: PlanFacts | None = None
    normalize: bool = False


def read_manifest(root: Path) -> StoreManifest:
    """embeddings.json of a store. Raises BundleError; for an unfinished store, with its progress."""
    path = root / FILE_NAME
    if not path.is_file():
        plan = read_plan(root)
        if plan is None:
            raise BundleError(
                f"{root} holds no {FILE_NAME}, wanted a directory that `dinodeploy embed` wrote"
            )
        raise BundleError(
            f"{root} is not complete: {count_finished(root)} of {plan.shards} shards; "
            "run the same `dinodeploy embed` again to resume"
        )
    manifest = schema.read(StoreManifest, path, "store")
    if manifest.version not in _READABLE:
        raise BundleError(f"{path}: got version {manifest.version}, wanted {VERSION}; upgrade dinodeploy")
    return manifest
