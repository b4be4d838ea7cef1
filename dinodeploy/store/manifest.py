"""embeddings.json, the root of a store: what it holds, and every file that belongs to it.

It is written last, and replaced as a whole by the next generation of the store (`embed --update`), so a
directory that has it is complete. `reader.py` reads it first.

The shards are in the order of the images. Their numbers, which their file names carry, are not: a shard of an
older generation that did not change keeps its number, and new shards get the next free ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinodeploy.bundle.manifest import FileFacts
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files import schema
from dinodeploy.files.json_file import read_json
from dinodeploy.store.dtypes import Dtype
from dinodeploy.store.plan import Identity, Plan, read_plan
from dinodeploy.store.shard import UNKNOWN_SIZE, Shape, ShardRecord, count_finished, merge_shapes

FILE_NAME = "embeddings.json"
QUARANTINE = "quarantine.jsonl"
VERSION = 3
# Version 1 had no `plan`, and float32 only. Up to version 2 shards had no listing and files no size.
_READABLE = (1, 2, 3)


@dataclass(frozen=True)
class ShardFacts:
    """One shard. Without rows it has no file but its listing.

    number: in its file names. images: how many it was made from, quarantined ones included. files: by path in
    the store. shapes: of a row of each output; null without rows. generation: the first that had the shard.
    """

    number: int
    images: int
    rows: int
    files: dict[str, FileFacts]
    shapes: dict[str, Shape | None] = field(default_factory=dict)
    generation: int = 1


@dataclass(frozen=True)
class ColumnFacts:
    """One output: the shape of a row, with null for a side that differs between rows; null without rows.

    dtype: on disk; it is read as float32. int8 has a second column `<output>_scale` (`dtypes.py`).
    """

    shape: Shape | None
    dtype: Dtype = "float32"


@dataclass(frozen=True)
class PlanFacts:
    """How the listing was cut: shards of `shard_size` images at first, of at most so many after an update.

    listing_sha256: see `plan.hash_listing`. pictures: number of images, quarantined ones included, and absent
    ones whose rows were kept.
    """

    listing_sha256: str
    pictures: int
    shard_size: int


@dataclass(frozen=True)
class StoreManifest:
    """Root of embeddings.json. fingerprint: what determines the numbers (model, engine, preprocessing).

    normalize: every vector, the last axis of an output, was scaled to length 1; a vector of zeros was not.
    generation: 1 for a new store; each update adds one. identity: what the listings tell of each image.
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
    generation: int = 1
    identity: Identity = "unknown"

    def __post_init__(self) -> None:
        numbers = [shard.number for shard in self.shards]
        if len(set(numbers)) < len(numbers) or not all(0 <= number < 10**9 for number in numbers):
            raise MisuseError("shards: got a number twice or out of range, wanted each shard once")
        if any(not 0 <= shard.rows <= shard.images for shard in self.shards):
            raise MisuseError("shards: got more rows than images")

    def files(self) -> Iterator[tuple[str, FileFacts]]:
        """Every file of every shard."""
        for shard in self.shards:
            yield from shard.files.items()


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
            f"{root} is not complete: {count_finished(root, plan)} of {plan.shards} shards; "
            "run the same `dinodeploy embed` again to resume"
        )
    return read_manifest_file(path)


def read_manifest_file(path: Path) -> StoreManifest:
    """A manifest of any version, as the newest. Raises BundleError."""
    data = read_json(path, "store")
    if isinstance(data, dict) and data.get("version") in (1, 2) and type(data["version"]) is int:
        data = _as_newest(data)
    manifest = schema.parse(StoreManifest, data, str(path))
    if manifest.version not in _READABLE:
        raise BundleError(f"{path}: got version {manifest.version}, wanted {VERSION}; upgrade dinodeploy")
    return manifest


def make_manifest(
    plan: Plan, records: Sequence[ShardRecord], kept: Mapping[int, ShardFacts], generation: int
) -> StoreManifest:
    """The manifest of a finished store; `kept` are its shards of older generations, by index."""
    shapes: dict[str, Shape | None] = dict.fromkeys(plan.outputs)
    shards = []
    for index, record in enumerate(records):
        number = plan.number(index)
        for output in plan.outputs:
            shape = record.shapes.get(output)
            shapes[output] = merge_shapes(shapes[output], shape, output, f"shard {number}")
        new = ShardFacts(number, record.images, record.rows, record.files, record.shapes, generation)
        shards.append(kept.get(index, new))
    return StoreManifest(
        version=VERSION,
        format=plan.format,
        outputs={output: ColumnFacts(shape, plan.dtype) for output, shape in shapes.items()},
        count=sum(record.rows for record in records),
        quarantined=sum(len(record.quarantined) for record in records),
        shards=shards,
        fingerprint=plan.fingerprint,
        plan=PlanFacts(plan.listing_sha256, plan.pictures, plan.shard_size),
        normalize=plan.normalize,
        generation=generation,
        identity=plan.identity,
    )


def encode_manifest(manifest: StoreManifest) -> bytes:
    return json.dumps(schema.dump(manifest), indent=2).encode() + b"\n"


def _as_newest(data: dict[str, Any]) -> dict[str, Any]:
    """Older shards: numbered in order, files by hash alone. What does not fit is left to the schema."""
    shards = data.get("shards")
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        return data
    plan: Any = data.get("plan")
    found = []
    for number, shard in enumerate(shards):
        images, files = shard.get("rows"), shard.get("files")
        with suppress(TypeError, LookupError, ValueError, OverflowError):  # version 1 has no plan
            images = len(range(plan["pictures"])[number * plan["shard_size"] :][: plan["shard_size"]])
        if isinstance(files, dict):
            files = {name: {"sha256": sha256, "bytes": UNKNOWN_SIZE} for name, sha256 in files.items()}
        found.append({**shard, "number": number, "images": images, "files": files})
    return {**data, "shards": found}
