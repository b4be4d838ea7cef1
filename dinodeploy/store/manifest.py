"""embeddings.json, the root of a store: what the store holds, and which files are its own.

It is written last: a directory that has it is complete. Read by `stored.py` before anything else.
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
_READABLE = (1, 2)  # version 1 had neither `plan` nor any dtype but float32


@dataclass(frozen=True)
class ShardFacts:
    """Number of rows, and sha256 of each file by its path in the store. A shard without rows has no file."""

    rows: int
    files: dict[str, str]


@dataclass(frozen=True)
class ColumnFacts:
    """One output: the shape of a row, with null for a side that differs between rows; null without rows.

    dtype: as it lies in the files; it is read as float32 whatever it is. Of int8 there is a column
    `<output>_scale` besides (`packing.py`).
    """

    shape: Shape | None
    dtype: Dtype = "float32"


@dataclass(frozen=True)
class PlanFacts:
    """What the rows were cut from: shard i is the pictures i * shard_size and on of the listing.

    listing_sha256: see `plan.hash_listing`. pictures: readable and quarantined.
    """

    listing_sha256: str
    pictures: int
    shard_size: int


@dataclass(frozen=True)
class StoreManifest:
    """Root of embeddings.json. fingerprint: what decides the numbers (model, engine, preprocessing)."""

    version: int
    format: str
    outputs: dict[str, ColumnFacts]
    count: int
    quarantined: int
    shards: list[ShardFacts]
    fingerprint: dict[str, Any]
    plan: PlanFacts | None = None


def read_manifest(root: Path) -> StoreManifest:
    """embeddings.json of a store. Raises BundleError; of a run that was stopped it says how far that came."""
    path = root / FILE_NAME
    if not path.is_file():
        raise BundleError(_why_absent(root))
    manifest = schema.read(StoreManifest, path)
    if manifest.version not in _READABLE:
        raise BundleError(f"{path}: got version {manifest.version}, wanted {VERSION}; upgrade dinodeploy")
    return manifest


def _why_absent(root: Path) -> str:
    plan = read_plan(root)
    if plan is None:
        return f"{root} holds no {FILE_NAME}, wanted a directory that `dinodeploy embed` wrote"
    return (
        f"{root} is not complete: {count_finished(root)} of {plan.shards} shards; "
        "run the same `dinodeploy embed` again to go on"
    )
