"""The plan of a store, OUT/.embed/plan.json: written before any work, removed when the store is complete.

It fixes everything the bytes of the store depend on, so that a later run can resume an interrupted one.
Shard i holds the images [i * shard_size, (i + 1) * shard_size) of the listing, readable or not: no shard
depends on another. The plan of an update (`update.py`) lists its shards as `pieces`: shards that are kept,
and new ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from json.encoder import encode_basestring_ascii as encode_string
from pathlib import Path
from typing import Any, Literal

from dinodeploy.bundle.manifest import as_recorded
from dinodeploy.errors import MisuseError
from dinodeploy.files import schema
from dinodeploy.store.dtypes import Dtype

WORK = ".embed"  # the folder inside a store that is not complete
PLAN = "plan.json"
VERSION = 1
_SHOWN = 4  # differences that a message lists

Identity = Literal["unknown", "stat", "hash"]  # what listings tell of images: size and time; also a hash


@dataclass(frozen=True)
class Piece:
    """One shard of an update, of so many images. kept: it is a shard of the old generation, as it is."""

    number: int
    images: int
    kept: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be made. Validated when created: MisuseError.

    Of an update: the shards in order, sha256 of the manifest that rows are copied from, and sha256 of which
    rows are copied.
    """

    listing_sha256: str
    pictures: int
    shard_size: int
    outputs: tuple[str, ...]
    format: str
    dtype: Dtype
    batch: int  # the last bits of some engines depend on it, so a resumed run keeps it
    fingerprint: dict[str, Any]
    version: int = VERSION
    normalize: bool = False  # every vector is scaled to length 1 before it is written
    identity: Identity = "unknown"
    pieces: tuple[Piece, ...] | None = None
    base: str = ""
    copied: str = ""

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise MisuseError(f"{PLAN} is of version {self.version}, wanted {VERSION}; upgrade dinodeploy")
        if self.pictures < 0:
            raise MisuseError(f"pictures: got {self.pictures}, wanted 0 or more")
        for name, value in (("shard size", self.shard_size), ("batch size", self.batch)):
            if value < 1:
                raise MisuseError(f"{name}: got {value}, wanted at least 1")
        pieces = self.pieces or ()
        if pieces and sum(piece.images for piece in pieces) != self.pictures:
            raise MisuseError(f"pieces: got other than {self.pictures} images")
        if any(not (piece.images > 0 and 0 <= piece.number < 10**9) for piece in pieces):
            raise MisuseError("pieces: got a number out of range")

    @property
    def shards(self) -> int:
        return -(-self.pictures // self.shard_size) if self.pieces is None else len(self.pieces)

    def number(self, index: int) -> int:
        """The number in the file names of a shard."""
        return index if self.pieces is None else self.pieces[index].number

    def is_kept(self, index: int) -> bool:
        """Whether a shard is one of the old generation, unchanged."""
        return self.pieces is not None and self.pieces[index].kept

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(piece.images for piece in self.pieces or ())]

    def shard(self, index: int) -> range:
        """Positions of a shard's images in the listing."""
        if self.pieces is not None:
            return range(self._starts[index], self._starts[index + 1])
        begin = index * self.shard_size
        return range(begin, min(begin + self.shard_size, self.pictures))

    def differences(self, other: Plan, *, images: bool = True) -> str:
        """How `other` differs, as a readable text; empty if it does not. Batch sizes are not compared.

        images: whether the listings are compared.
        """
        ours = dict(self._facts(self.fingerprint))
        theirs = dict(other._facts(as_recorded(other.fingerprint, self.fingerprint)))
        if not images:
            del ours["pictures"], theirs["pictures"]
        elif self.pictures == other.pictures and self.listing_sha256 != other.listing_sha256:
            ours["the listing"], theirs["the listing"] = "other images", "these"
        changed = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        shown = [f"{key}: {_show(ours.get(key))}, now {_show(theirs.get(key))}" for key in changed[:_SHOWN]]
        return "; ".join(shown) + (f" (and {len(changed) - _SHOWN} more)" if len(changed) > _SHOWN else "")

    def _facts(self, fingerprint: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        yield "pictures", self.pictures
        yield "shard size", self.shard_size
        yield "outputs", ",".join(self.outputs)
        yield "format", self.format
        yield "dtype", self.dtype
        yield "normalize", self.normalize
        yield from _flat(fingerprint)


def hash_listing(ids: Iterable[str], origins: Iterable[str] = ()) -> str:
    """sha256 of the ids in order, one line of JSON each, followed by the origins.

    origins: where images come from, if the ids do not tell (`sources.origins_of`).
    """
    digest = hashlib.sha256()
    for id_ in ids:
        digest.update(f"{encode_string(id_)}\n".encode())
    for origin in origins:
        digest.update(f"from {encode_string(origin)}\n".encode())  # not JSON, so never equal to an id
    return digest.hexdigest()


def read_plan(out: Path) -> Plan | None:
    """The plan of an unfinished store, or None. Raises BundleError."""
    path = out / WORK / PLAN
    return schema.read(Plan, path, "store") if path.is_file() else None


def write_plan(plan: Plan) -> bytes:
    return json.dumps(schema.dump(plan), indent=2).encode() + b"\n"


def parse_part(text: str) -> tuple[int, int]:
    """`2/4` -> (2, 4), the second of four processes. Raises MisuseError."""
    left, slash, right = text.partition("/")
    if not (slash and _is_number(left) and _is_number(right) and 1 <= int(left) <= int(right)):
        raise MisuseError(f"shards {text!r}; wanted i/n, the i-th of n processes, for instance 1/4")
    return int(left), int(right)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
