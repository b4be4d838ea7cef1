"""The records of finished shards, OUT/.embed/shards/00012.json, one each.

A record is written before its files are moved into place. So a shard is finished if its record is there
and every file that it lists is in place with its size; and whatever a killed run left is known by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.bundle.bundle import sha256_file
from dinodeploy.errors import BundleError
from dinodeploy.files import schema
from dinodeploy.store.plan import WORK

RECORDS = f"{WORK}/shards"
Shape = list[int | None]  # of a row, with None for a side that differs between rows


@dataclass(frozen=True)
class WrittenFile:
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> WrittenFile:
        return cls(sha256_file(path), path.stat().st_size)


@dataclass(frozen=True)
class Quarantined:
    """A picture without a row, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class ShardRecord:
    """What one shard became. shapes: of a row of each output, null without rows."""

    rows: int
    files: dict[str, WrittenFile]
    shapes: dict[str, Shape | None]
    quarantined: list[Quarantined]

    @property
    def pictures(self) -> int:
        """Readable and quarantined."""
        return self.rows + len(self.quarantined)

    def in_place(self, out: Path) -> bool:
        """Whether every file is where it belongs, with its size. Reading it checks its hash."""
        return all(_size(out / name) == file.bytes for name, file in self.files.items())


def record_path(out: Path, index: int) -> Path:
    return out / RECORDS / f"{index:05d}.json"


def read_record(out: Path, index: int) -> ShardRecord | None:
    """The record of a shard, or None. Raises BundleError for one that was damaged."""
    path = record_path(out, index)
    return schema.read(ShardRecord, path) if path.is_file() else None


def write_record(record: ShardRecord) -> bytes:
    return json.dumps(schema.dump(record)).encode() + b"\n"


def recorded(out: Path) -> list[ShardRecord]:
    """Every record there is; a damaged one counts as none."""
    found = []
    for path in sorted((out / RECORDS).glob("*.json")):
        try:
            found.append(schema.read(ShardRecord, path))
        except BundleError:
            continue
    return found


def count_records(out: Path) -> int:
    """How many shards are finished."""
    return sum(record.in_place(out) for record in recorded(out))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # a damaged record may list what is no file name
        return None
