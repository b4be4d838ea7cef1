"""Plan the next generation of a store: what its sources changed, which rows are copied, which shards stay.

    listings of the store ─┐
                           ├─> place of each image in the old store, or -1: embed it
    stamps of the sources ─┘     ─> pieces: whole shards that did not change, and new ones between them

The plan depends on the old store and its sources only, so a run that was killed continues with the same
plan. The rows of a store are in the order of its images, whatever its history; absent images come last.

Shapes: n images of the sources, m planned images: those, then the absent ones that are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dinodeploy.arrays import AnyArray, ByteArray, IndexArray
from dinodeploy.files import schema
from dinodeploy.sources.stamps import UNRECORDED, Stamps
from dinodeploy.store.listing import Listing, listing_file
from dinodeploy.store.manifest import StoreManifest
from dinodeploy.store.plan import Piece, Plan
from dinodeploy.store.rows import Images, Old

FEW_IMAGES = 500  # no batch size is measured for so few: that takes longer than most updates


@dataclass(frozen=True)
class Follow:
    """How a run follows its sources.

    update: make the next generation where they changed. keep_missing: keep the rows of images that are gone.
    retry_quarantined: try them again, changed or not. verify: check the hash of every file of the store.
    """

    update: bool = False
    keep_missing: bool = False
    retry_quarantined: bool = False
    verify: bool = False


@dataclass(frozen=True)
class Changes:
    """How sources differ from a store. damaged: shards with missing or changed files.

    retried: quarantined images to try again. moved: the order differs. unrecorded: the store knows too little
    of its images, so some changes cannot be noticed.
    """

    changed: int = 0
    new: int = 0
    missing: int = 0
    damaged: int = 0
    retried: int = 0
    moved: bool = False
    unrecorded: bool = False

    def __bool__(self) -> bool:
        return bool(self.changed or self.new or self.missing or self.damaged or self.retried or self.moved)

    def __str__(self) -> str:
        counts = (self.changed, "changed"), (self.new, "new"), (self.missing, "missing")
        images = ", ".join(f"{count} {what}" for count, what in counts if count)
        parts = [f"{images} images"] if images else []
        if self.damaged:
            parts.append(f"{self.damaged} shards with missing or changed files")
        if self.retried:
            parts.append(f"{self.retried} quarantined images to try again")
        if self.moved and not parts:
            parts.append("images in another order")
        return ", ".join(parts)


@dataclass(frozen=True)
class Update:
    """A planned update. copied: [m], the place in `old` of each image, or -1."""

    plan: Plan
    changes: Changes
    images: Images
    old: Old
    copied: IndexArray


def plan_update(plan: Plan, old: Old, usable: Sequence[bool], now: Stamps, follow: Follow) -> Update:
    """Plan what a store of `plan` makes of the shards `old`. usable: whether the files of each are intact."""
    found = _Comparison(old, usable, now, follow)
    found.compare()
    n = len(now.ids)
    absent_places = np.array(list(found.gone.values()), np.int64)
    copied = np.concatenate([found.copied, absent_places])
    stamps, absent = now.all().copy(), np.zeros(len(copied), np.uint8)
    absent[:n][found.vanished] = absent[n:] = 1
    sha256 = _hashes(found, now)
    images = Images([*now.ids, *found.gone] if found.gone else now.ids, stamps, absent, sha256)
    images = _with_absent(images, old, copied)
    pieces = _pieces(plan.shard_size, old, usable, images, copied)
    digest = hashlib.sha256()
    for array in (copied, images.stamps, images.absent, *([] if sha256 is None else [sha256])):
        digest.update(np.ascontiguousarray(array).data)
    planned = replace(
        plan, pictures=len(copied), pieces=pieces, base=manifest_hash(old.manifest), copied=digest.hexdigest()
    )
    return Update(planned, found.changes(), images, old, copied)


def manifest_hash(manifest: StoreManifest) -> str:
    return hashlib.sha256(json.dumps(schema.dump(manifest)).encode()).hexdigest()


class _Comparison:
    """Images of an old store beside those of the sources.

    copied: [n], the place of each source image in the old store, or -1. vanished: [n] bool, listed images
    whose file is gone and whose row is kept. gone: places of kept images that are not listed any more, by id.
    """

    def __init__(self, old: Old, usable: Sequence[bool], now: Stamps, follow: Follow) -> None:
        n = len(now.ids)
        self._old, self._usable, self._now, self._follow = old, usable, now, follow
        self.hashes: ByteArray | None = now.hashes(range(n)) if now.content else None
        self.copied: IndexArray = np.full(n, -1, np.int64)
        self.vanished = np.zeros(n, bool)
        self.gone: dict[str, int] = {}
        self._lost = np.zeros(n, bool)  # listed, and its file is gone
        self._seen = np.zeros(n, bool)
        self._back = np.zeros(n, bool)  # was absent
        self._damaged = np.zeros(n, bool)
        self._retried = np.zeros(n, bool)
        self._missing: set[str] = set()
        self._drops_absent = follow.update and not follow.keep_missing
        self.unrecorded = False

    def compare(self) -> None:
        where = {id_: position for position, id_ in enumerate(self._now.ids)}
        for shard, listing in enumerate(self._old.listings):
            found = (where.get(id_, -1) for id_ in listing.ids)
            self._shard(shard, listing, np.fromiter(found, np.int64, len(listing.ids)))

    def _shard(self, shard: int, listing: Listing, positions: IndexArray) -> None:
        listed = positions >= 0
        at = positions[listed]
        places = self._old.starts[shard] + np.flatnonzero(listed)
        stamps, was_absent = listing.stamps[listed], listing.absent[listed].astype(bool)
        now_gone = (self._now.all()[at, 0] < 0) & (stamps[:, 0] >= 0)
        same = self._unchanged(listing, np.flatnonzero(listed), at)
        self._seen[at] = True
        self._back[at] |= was_absent & ~now_gone
        self._lost[at] |= now_gone & (~was_absent | self._drops_absent)
        keeps = not self._drops_absent
        held = now_gone & (was_absent | self._follow.keep_missing) & keeps
        self.vanished[at] = held
        good = same | held
        if not self._usable[shard]:
            self._damaged[at[good]] = True
            good &= False
        else:
            self._damaged[at[good]] = False
        if self._follow.retry_quarantined:
            refused = ~listing.has_row()[listed]
            self._retried[at[good & refused]] = True
            good &= ~refused
        self.copied[at[good]] = places[good]
        self._keep_unlisted(shard, listing, positions)

    def _keep_unlisted(self, shard: int, listing: Listing, positions: IndexArray) -> None:
        for image in np.flatnonzero(positions < 0).tolist():
            if not listing.absent[image] or self._drops_absent:
                self._missing.add(listing.ids[image])
            if self._follow.keep_missing and self._usable[shard]:
                self.gone[listing.ids[image]] = self._old.starts[shard] + image

    def _unchanged(self, listing: Listing, images: IndexArray, at: IndexArray) -> AnyArray:
        """[k] bool: whether k images of a listing are the source images `at`."""
        before, now = listing.stamps[images], self._now.all()[at]
        unrecorded = before[:, 0] == UNRECORDED
        self.unrecorded |= bool(unrecorded.any()) or (self.hashes is not None and listing.sha256 is None)
        same = (before == now).all(axis=1) | unrecorded
        if listing.sha256 is None:
            return same
        hashed = listing.sha256[images]
        known = hashed.any(axis=1) & (before[:, 2] == now[:, 2])  # the same origin
        if self.hashes is not None:
            known &= self.hashes[at].any(axis=1)
            return np.where(known, (hashed == self.hashes[at]).all(axis=1), same)
        ask = np.flatnonzero(known & ~same)  # only the time may differ
        same[ask] = (hashed[ask] == self._now.hashes(at[ask].tolist())).all(axis=1)
        return same

    def changes(self) -> Changes:
        new = ~self._seen | self._back
        made = (self.copied < 0) & ~self._damaged & ~self._retried
        lost = self._lost & ~self._damaged
        order = self.copied[self.copied >= 0]
        return Changes(
            changed=int((made & ~new & ~lost).sum()),
            new=int(new.sum()),
            missing=len(self._missing) + int(lost.sum()),
            damaged=sum(not usable for usable in self._usable),
            retried=int(self._retried.sum()),
            moved=bool((np.diff(order) < 0).any()),
            unrecorded=self.unrecorded,
        )


def _hashes(found: _Comparison, now: Stamps) -> ByteArray | None:
    """[m, 32]: hashes of the source images, and room for those of absent ones."""
    if found.hashes is None:
        return None
    return np.concatenate([found.hashes, np.zeros((len(found.gone), 32), np.uint8)])


def _with_absent(images: Images, old: Old, copied: IndexArray) -> Images:
    """Absent images keep what is recorded of them."""
    absent = np.flatnonzero(images.absent)
    stamps = np.concatenate([images.stamps, np.zeros((len(copied) - len(images.stamps), 3), np.int64)])
    for position in absent.tolist():
        shard, image = old.find(int(copied[position]))
        listing = old.listings[shard]
        stamps[position] = listing.stamps[image]
        if images.sha256 is not None and listing.sha256 is not None:
            images.sha256[position] = listing.sha256[image]
    return replace(images, stamps=stamps)


def _pieces(
    shard_size: int, old: Old, usable: Sequence[bool], images: Images, copied: IndexArray
) -> tuple[Piece, ...]:
    """Shards that stay as they are, where their images are still in a row, and new ones between them.

    A small shard joins the new images beside it, so that many small updates do not leave many small shards.
    """
    where = np.full(old.starts[-1], -1, np.int64)
    where[copied[copied >= 0]] = np.flatnonzero(copied >= 0)
    kept: dict[int, int] = {}  # first position -> shard
    for shard, listing in enumerate(old.listings):
        first = int(where[old.starts[shard]]) if listing.ids else -1
        if first >= 0 and usable[shard] and _stays(old, shard, first, where, images):
            kept[first] = shard
    segments: list[tuple[int, int, int]] = []  # begin, end, shard or -1
    at = 0
    for first in [*sorted(kept), len(copied)]:
        if first > at:
            _push(segments, (at, first, -1), shard_size)
        if first in kept:
            at = first + len(old.listings[kept[first]].ids)
            _push(segments, (first, at, kept[first]), shard_size)
    number = max((shard.number for shard in old.manifest.shards), default=-1) + 1
    pieces = []
    for begin, end, shard in segments:
        if shard >= 0:
            pieces.append(Piece(old.manifest.shards[shard].number, end - begin, kept=True))
            continue
        for start in range(begin, end, shard_size):
            pieces.append(Piece(number, min(end, start + shard_size) - start))
            number += 1
    return tuple(pieces)


def _push(segments: list[tuple[int, int, int]], one: tuple[int, int, int], shard_size: int) -> None:
    """Append a segment; what is small enough becomes one gap with what is before it."""
    while segments:
        before = segments[-1]
        gaps = (before[2] < 0) + (one[2] < 0)  # two gaps always join
        if gaps < 2 and one[1] - before[0] > (shard_size if gaps else shard_size // 2):
            break
        one = (segments.pop()[0], one[1], -1)
    segments.append(one)


def _stays(old: Old, shard: int, first: int, where: IndexArray, images: Images) -> bool:
    """Whether the planned images from `first` on are those of a shard, in its order, as it records them."""
    listing = old.listings[shard]
    here = slice(first, first + len(listing.ids))
    places = where[old.starts[shard] : old.starts[shard + 1]]
    return (
        listing_file(old.manifest.shards[shard].number) in old.manifest.shards[shard].files
        and bool((places == np.arange(here.start, here.stop)).all())
        and np.array_equal(listing.stamps, images.stamps[here])
        and np.array_equal(listing.absent, images.absent[here])
        and (images.sha256 is None or _equal(listing.sha256, images.sha256[here]))
    )


def _equal(recorded: ByteArray | None, wanted: ByteArray) -> bool:
    return recorded is not None and np.array_equal(recorded, wanted)
