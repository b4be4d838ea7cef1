"""What is written for a shard: new rows, and rows copied from another generation or another store.

Rows are copied as they are stored, bit for bit. One or two shards of the old store are in memory meanwhile.

Shapes: n images of a shard.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np

from dinodeploy.arrays import AnyArray, ByteArray, IndexArray
from dinodeploy.errors import BundleError
from dinodeploy.sources.stamps import UNRECORDED
from dinodeploy.store.dtypes import pack, stored_parts, unit_length
from dinodeploy.store.formats import Column, Shard, open_format, split_rows, stack_rows
from dinodeploy.store.listing import Listing
from dinodeploy.store.manifest import StoreManifest
from dinodeploy.store.plan import Plan
from dinodeploy.store.reader import read_shard, read_sizes
from dinodeploy.store.shard import Quarantined, Shape, ShardRows, merge_shapes

_KEPT = 2  # shards of the old store in memory


@dataclass(frozen=True)
class Content:
    """What is written for one shard. shard: None without rows."""

    shard: Shard | None
    shapes: dict[str, Shape | None]
    quarantined: list[Quarantined]
    listing: Listing

    @property
    def rows(self) -> int:
        return 0 if self.shard is None else len(self.shard.ids)


@dataclass(frozen=True)
class Images:
    """The images of a planned store: their ids and what its listings record of them (`Listing`)."""

    ids: Sequence[str]
    stamps: IndexArray
    absent: ByteArray
    sha256: ByteArray | None


class Places(Protocol):
    """Images of one or more stores, each found by its place."""

    def reason(self, place: int) -> str | None:
        """Why an image is quarantined; None where it has a row."""
        ...

    def row(self, place: int) -> tuple[dict[str, AnyArray], tuple[int, int]]:
        """The columns of an image that has a row, as stored, and its size. Raises BundleError."""
        ...


class Old:
    """The shards of a store that rows are copied from. A place is the number of an image in all listings."""

    def __init__(self, root: Path, manifest: StoreManifest, listings: Sequence[Listing]) -> None:
        self.root = root
        self.manifest = manifest
        self.listings = listings
        self.starts = [0, *accumulate(len(listing.ids) for listing in listings)]
        self._loaded: OrderedDict[int, _Loaded] = OrderedDict()
        self._here = 0, 0, 0  # the shard found last, and the places in it

    def find(self, place: int) -> tuple[int, int]:
        """The shard, by its position in the manifest, and the image in it."""
        shard, begin, end = self._here
        if not begin <= place < end:
            shard = bisect_right(self.starts, place) - 1
            begin = self.starts[shard]
            self._here = shard, begin, self.starts[shard + 1]
        return shard, place - begin

    def reason(self, place: int) -> str | None:
        """Why an image is quarantined; None where it has a row."""
        shard, image = self.find(place)
        return self.listings[shard].quarantined.get(image)

    def row(self, place: int) -> tuple[dict[str, AnyArray], tuple[int, int]]:
        """The columns of an image that has a row, as stored, and its size. Raises BundleError."""
        shard, image = self.find(place)
        loaded = self._loaded.get(shard)
        if loaded is None:
            loaded = self._loaded[shard] = _Loaded(self, shard)
            if len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(shard)
        return loaded.row(image)


class _Loaded:
    """One shard of an old store."""

    def __init__(self, old: Old, shard: int) -> None:
        facts, listing = old.manifest.shards[shard], old.listings[shard]
        has_row = listing.has_row()
        if int(has_row.sum()) != facts.rows:
            raise BundleError(f"{old.root}: shard {facts.number} has another number of rows than its listing")
        self._rows: list[int] = (np.cumsum(has_row) - 1).tolist()
        self._parts: dict[str, list[AnyArray]] = {}
        reader = open_format(old.manifest.format)
        for output, stored in old.manifest.outputs.items():
            _, columns = read_shard(old.root, old.manifest, shard, output, reader)
            for part, column in zip(stored_parts(output, stored.dtype), columns, strict=True):
                self._parts[part] = split_rows(column)
        self._sizes: list[list[int]] = read_sizes(old.root, old.manifest, shard, reader).tolist()

    def row(self, image: int) -> tuple[dict[str, AnyArray], tuple[int, int]]:
        row = self._rows[image]
        width, height = self._sizes[row]
        return {part: rows[row] for part, rows in self._parts.items()}, (width, height)


def new_content(plan: Plan, rows: ShardRows) -> Content:
    """A shard of new rows only."""
    listed = rows.listed()
    reasons = {at: reason for at, (_, reason) in enumerate(listed.values()) if reason is not None}
    stamps = np.full((len(listed), 3), UNRECORDED, np.int64)
    listing = Listing(
        ids=[id_ for id_, _ in listed.values()],
        stamps=stamps if rows.stamps is None else rows.stamps,
        absent=np.zeros(len(listed), np.uint8),
        quarantined=reasons,
        sha256=rows.sha256,
    )
    shard = None
    if rows.positions:
        columns: dict[str, Column] = {}
        for output in plan.outputs:
            columns.update(_pack(plan, output, rows))
        shard = Shard(rows.ids, np.array(rows.sizes, np.int32), columns)
    return Content(shard, rows.shapes, rows.quarantined, listing)


def mixed_content(
    plan: Plan, positions: range, images: Images, old: Places, copied: IndexArray, rows: ShardRows
) -> Content:
    """A shard of copied and new rows. copied: the place in `old` of each image of the store, or -1."""
    fresh, new = _packed(plan, rows), rows.listed()
    quarantined: dict[int, str] = {}
    kept: dict[str, list[AnyArray]] = {part: [] for o in plan.outputs for part in stored_parts(o, plan.dtype)}
    ids: list[str] = []
    sizes: list[tuple[int, int]] = []
    here = slice(positions.start, positions.stop)
    names = images.ids[here]
    for at, (position, place) in enumerate(zip(positions, copied[here].tolist(), strict=True)):
        reason = old.reason(place) if place >= 0 else new[position][1]
        if reason is not None:
            quarantined[at] = reason
            continue
        columns, size = old.row(place) if place >= 0 else fresh[position]
        ids.append(names[at])
        sizes.append(size)
        for part, found in kept.items():
            found.append(columns[part])
    listing = Listing(
        ids=names,
        stamps=images.stamps[here],
        absent=images.absent[here],
        quarantined=quarantined,
        sha256=None if images.sha256 is None else images.sha256[here],
    )
    shapes: dict[str, Shape | None] = dict.fromkeys(plan.outputs)
    for output in plan.outputs:
        for shape in dict.fromkeys(row.shape for row in kept[output]):
            shapes[output] = merge_shapes(shapes[output], list(shape), output, ids[0])
    shard = None
    if ids:
        stacked = {part: stack_rows(found) for part, found in kept.items()}
        shard = Shard(ids, np.array(sizes, np.int32), stacked)
    refused = [Quarantined(listing.ids[at], reason) for at, reason in quarantined.items()]
    return Content(shard, shapes, refused, listing)


def _packed(plan: Plan, rows: ShardRows) -> dict[int, tuple[dict[str, AnyArray], tuple[int, int]]]:
    """The new rows by position, as stored, and their sizes."""
    positions = rows.positions
    if not positions:
        return {}
    parts: dict[str, list[AnyArray]] = {}
    for output in plan.outputs:
        for part, column in _pack(plan, output, rows).items():
            parts[part] = split_rows(column)
    sizes = rows.sizes
    return {
        position: ({part: found[row] for part, found in parts.items()}, sizes[row])
        for row, position in enumerate(positions)
    }


def _pack(plan: Plan, output: str, rows: ShardRows) -> dict[str, Column]:
    """The columns to write of one output of new rows."""
    column = rows.column(output)
    if plan.normalize:
        column = Column(unit_length(column.values)[0], column.grid)
    return pack(output, column, plan.dtype)
