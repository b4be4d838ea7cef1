"""Merge stores of one model into one: rows are copied as they are stored, nothing is embedded.

    report = dinodeploy.merge(["a", "b"], out="c")

The images come in the order of the stores. An id that several stores hold is one image if its rows are equal,
bit for bit; otherwise the merge is refused. A row comes before a quarantine entry of the same id.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray, IndexArray
from dinodeploy.errors import BundleError, MisuseError, OutputExistsError
from dinodeploy.files import atomic
from dinodeploy.store.existing import Target, inspect_target, plan_of
from dinodeploy.store.generations import load_old
from dinodeploy.store.plan import Identity, Plan, hash_listing
from dinodeploy.store.reader import StoredEmbeddings, open_embeddings
from dinodeploy.store.rows import Images, Old, mixed_content
from dinodeploy.store.shard import ShardRows
from dinodeploy.store.writer import Store

_SHARD_SIZE = 10_000  # images, where the first store is too old to tell


@dataclass(frozen=True)
class MergeReport:
    """What a merge wrote. repeated: images that several stores hold, with equal rows."""

    out: Path
    embedded: int
    quarantined: int
    repeated: int

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `merge --json` prints them."""
        return {
            "out": str(self.out),
            "embedded": self.embedded,
            "quarantined": self.quarantined,
            "repeated": self.repeated,
        }


def merge(stores: Sequence[str | Path], *, out: str | Path, overwrite: bool = False) -> MergeReport:
    """Merge stores that `embed` wrote with one model into a new store `out`, in the format of the first.

    overwrite: replace a store at `out`. Raises MisuseError for fewer than two stores, for stores of other
    models, outputs or dtypes, and for an id with different rows; OutputExistsError if `out` holds something;
    BundleError and TamperedError for a store that is not whole.
    """
    target = Path(out).resolve()
    if len({Path(store).resolve() for store in stores} - {target}) < max(2, len(stores)):
        raise MisuseError("merge: wanted two or more different stores, and another directory as out")
    opened = [open_embeddings(store) for store in stores]  # held while they are read
    plan = _common_plan(opened)
    places = _Places([_whole(store) for store in opened])
    ids, copied, repeated = places.joined()
    plan = replace(plan, listing_sha256=hash_listing(ids), pictures=len(ids), identity=_identity(opened))
    if inspect_target(target, plan, overwrite, images=False) != Target():
        raise OutputExistsError(f"{target} holds a store already; pass --overwrite or choose another --out")
    images = places.images(copied, ids)
    with atomic.atomic_directory(target) as partial, Store(partial, plan) as store:
        for index in store.remaining:
            rows = ShardRows(plan.outputs)
            store.write(index, mixed_content(plan, plan.shard(index), images, places, copied, rows))
        manifest = store.finish()
    assert manifest is not None, "every shard was written"
    return MergeReport(target, manifest.count, manifest.quarantined, repeated)


def _whole(store: StoredEmbeddings) -> Old:
    old, usable = load_old(store.root, store.manifest)
    if not all(usable):
        raise BundleError(f"{store.root} has missing or changed files; copy it again, or embed with --update")
    return old


def _identity(opened: Sequence[StoredEmbeddings]) -> Identity:
    """What all listings tell."""
    found = {store.manifest.identity for store in opened}
    order: tuple[Identity, ...] = ("unknown", "stat", "hash")
    return next(identity for identity in order if identity in found)


def _common_plan(opened: Sequence[StoredEmbeddings]) -> Plan:
    """The plan of the merged store, but for its images. Raises MisuseError where the stores differ."""
    plans = []
    for store in opened:
        shard_size = store.manifest.plan.shard_size if store.manifest.plan is not None else _SHARD_SIZE
        plans.append(plan_of(store.manifest, shard_size))
    first = plans[0]
    for store, plan in zip(opened, plans, strict=True):
        same = replace(plan, shard_size=first.shard_size, format=first.format)
        if differences := first.differences(same, images=False):
            raise MisuseError(
                f"{store.root} does not fit {opened[0].root} ({differences}); merge stores "
                "of one model, with the same outputs, dtype and lengths"
            )
    return first


class _Places:
    """The images of all stores: those of the second follow those of the first."""

    def __init__(self, stores: Sequence[Old]) -> None:
        self._stores = stores
        self._starts = [0, *accumulate(old.starts[-1] for old in stores)]

    def reason(self, place: int) -> str | None:
        """As `Old.reason`."""
        old, inner = self._find(place)
        return old.reason(inner)

    def row(self, place: int) -> tuple[dict[str, AnyArray], tuple[int, int]]:
        """As `Old.row`."""
        old, inner = self._find(place)
        return old.row(inner)

    def images(self, places: IndexArray, ids: Sequence[str]) -> Images:
        """What the listings of the merged store record."""
        listings = [listing for old in self._stores for listing in old.listings]
        stamps = np.concatenate([np.zeros((0, 3), np.int64), *(one.stamps for one in listings)])
        absent = np.concatenate([np.zeros(0, np.uint8), *(one.absent for one in listings)])
        hashes = [one.sha256 for one in listings if one.sha256 is not None]
        sha256 = np.concatenate(hashes)[places] if hashes and len(hashes) == len(listings) else None
        return Images(ids, stamps[places], absent[places], sha256)

    def joined(self) -> tuple[list[str], IndexArray, int]:
        """The images of the merged store, the place of each, and how many images were repeated."""
        first: dict[str, int] = {}
        repeated, different = 0, []
        everything = (id_ for old in self._stores for listing in old.listings for id_ in listing.ids)
        for place, id_ in enumerate(everything):
            other = first.setdefault(id_, place)
            if other == place:
                continue
            repeated += 1
            if self.reason(other) is not None:
                first[id_] = place if self.reason(place) is None else other
            elif self.reason(place) is None and not self._same(other, place):
                different.append(id_)
        if different:
            raise MisuseError(
                f"merge: {len(different)} ids have different rows in different stores, such as "
                f"{different[0]!r}; embed one of them again, or use an --id-column that tells them apart"
            )
        return list(first), np.fromiter(first.values(), np.int64, len(first)), repeated

    def _same(self, one: int, other: int) -> bool:
        (columns, size), (others, other_size) = self.row(one), self.row(other)
        equal = all(np.array_equal(values, others[part]) for part, values in columns.items())
        return equal and size == other_size

    def _find(self, place: int) -> tuple[Old, int]:
        store = bisect_right(self._starts, place) - 1
        return self._stores[store], place - self._starts[store]
