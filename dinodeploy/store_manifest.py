"""embeddings.json, the root of a store: what the store holds, and which files are its own.

Read by `store.py` before anything else, and before a store is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dinodeploy import schema
from dinodeploy.errors import BundleError, OutputExistsError

FILE_NAME = "embeddings.json"
QUARANTINE = "quarantine.jsonl"
VERSION = 1


@dataclass(frozen=True)
class ShardFacts:
    """Number of rows, and sha256 of each file by its path in the store."""

    rows: int
    files: dict[str, str]


@dataclass(frozen=True)
class ColumnFacts:
    """One output: the shape of a row, with null for a side that differs between rows; null without rows."""

    shape: list[int | None] | None
    dtype: Literal["float32"] = "float32"


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


def read_manifest(root: Path) -> StoreManifest:
    """embeddings.json of a store. Raises BundleError."""
    path = root / FILE_NAME
    if not path.is_file():
        raise BundleError(f"{root} holds no {FILE_NAME}, wanted a directory that `dinodeploy embed` wrote")
    manifest = schema.read(StoreManifest, path)
    if manifest.version != VERSION:
        raise BundleError(f"{path}: got version {manifest.version}, wanted {VERSION}; upgrade dinodeploy")
    return manifest


def check_target(out: Path, overwrite: bool) -> None:
    """Raise OutputExistsError unless a store may be put at `out`."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise OutputExistsError(f"{out} is a file, wanted a directory to make; choose another --out")
    if not overwrite:
        raise OutputExistsError(
            f"{out} is not empty; pass --overwrite to replace it, or choose another --out"
        )
    try:
        manifest = read_manifest(out)
    except BundleError as error:
        raise OutputExistsError(f"{out} is not an embedding directory, so it stays; {error}") from error
    ours = {FILE_NAME, QUARANTINE}.union(*(shard.files for shard in manifest.shards))
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if name not in ours and not (path.is_dir() and not path.is_symlink()):
            raise OutputExistsError(
                f"{out} also holds {name!r}, so it stays; move it, or choose another --out"
            )
