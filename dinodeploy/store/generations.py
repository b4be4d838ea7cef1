"""Generations of a store: what an update copies rows from, and when files of an old one are deleted.

    OUT/embeddings.json             the newest complete generation
    OUT/.embed/base.json            what an unfinished update copies from, where that is not embeddings.json
    OUT/.embed/old-3.json           embeddings.json of generation 3, whose files are deleted when unread

A reader holds a shared lock on the embeddings.json that it has read, and so keeps its files. The old manifest
is the same file under another name (a hard link), so the writer sees the lock. On a file system without locks
or hard links, the files of an old generation stay until the next run.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from dinodeploy.errors import BundleError
from dinodeploy.files import atomic, schema
from dinodeploy.files.json_file import parse_json
from dinodeploy.files.lock import can_rename_open_files, lock
from dinodeploy.files.owned import remove_owned
from dinodeploy.sources.stamps import UNRECORDED
from dinodeploy.store.formats import is_shard_file
from dinodeploy.store.listing import Listing, listing_file, read_listing
from dinodeploy.store.manifest import (
    FILE_NAME,
    QUARANTINE,
    VERSION,
    ColumnFacts,
    PlanFacts,
    ShardFacts,
    StoreManifest,
    encode_manifest,
    read_manifest_file,
)
from dinodeploy.store.plan import PLAN, WORK, Plan
from dinodeploy.store.reader import read_shard
from dinodeploy.store.rows import Old
from dinodeploy.store.shard import Quarantined, finished_record, is_intact, read_records
from dinodeploy.store.update import manifest_hash

BASE = f"{WORK}/base.json"
_OLD = re.compile(r"old-\d{1,9}\.json")


def load_old(out: Path, manifest: StoreManifest, *, verify: bool = False) -> tuple[Old, list[bool]]:
    """The shards of a store with their listings, and whether the files of each are intact.

    A file is checked by its size, and by its hash if it is newer than the manifest, or `verify`.
    """
    written = max(
        (path.stat().st_mtime_ns for path in (out / FILE_NAME, out / BASE) if path.exists()), default=0
    )
    older = _older_quarantined(out, manifest)
    listings, usable = [], []
    for index, shard in enumerate(manifest.shards):
        good = is_intact(out, shard.files, written, verify=verify)
        try:
            listing = _listing(out, manifest, index, older)
        except BundleError:
            good, listing = False, _unrecorded([], {})
        listings.append(listing)
        usable.append(good)
    return Old(out, manifest, listings), usable


def _listing(out: Path, manifest: StoreManifest, index: int, older: dict[int, list[Quarantined]]) -> Listing:
    shard = manifest.shards[index]
    name = listing_file(shard.number)
    if name in shard.files:
        listing = read_listing(out / name)
        if len(listing.ids) != shard.images or int(listing.has_row().sum()) != shard.rows:
            raise BundleError(f"{out / name} does not fit {FILE_NAME}")
        return listing
    ids = read_shard(out, manifest, index, next(iter(manifest.outputs)))[0] if shard.rows else []
    refused = older.get(index, [])
    reasons = {len(ids) + at: entry.reason for at, entry in enumerate(refused)}
    return _unrecorded([*ids, *(entry.id for entry in refused)], reasons)


def _unrecorded(ids: list[str], quarantined: dict[int, str]) -> Listing:
    stamps = np.full((len(ids), 3), UNRECORDED, np.int64)
    return Listing(ids, stamps, np.zeros(len(ids), np.uint8), quarantined)


def _older_quarantined(out: Path, manifest: StoreManifest) -> dict[int, list[Quarantined]]:
    """Quarantined images of an older store by shard, in the order of quarantine.jsonl."""
    if not manifest.quarantined or all(listing_file(s.number) in s.files for s in manifest.shards):
        return {}
    try:
        lines = (out / QUARANTINE).read_text("utf-8").splitlines()
        entries = [
            schema.parse(Quarantined, parse_json(line, QUARANTINE, "line"), QUARANTINE) for line in lines
        ]
    except (OSError, ValueError, BundleError):
        return {}
    found, left = {}, iter(entries)
    for index, shard in enumerate(manifest.shards):
        found[index] = [entry for _, entry in zip(range(shard.images - shard.rows), left, strict=False)]
    return found


def pooled(out: Path, base: StoreManifest | None, begun: Plan, generation: int) -> StoreManifest:
    """A manifest of all that an unfinished run leaves: its base, and the shards that it finished."""
    shards = list(base.shards) if base is not None else []
    for index in range(begun.shards):
        number = begun.number(index)
        record = None if begun.is_kept(index) else finished_record(out, number)
        if record is not None:
            shards.append(
                ShardFacts(number, record.images, record.rows, record.files, record.shapes, generation)
            )
    known = base.outputs if base is not None else {}
    outputs = {output: known.get(output, ColumnFacts(None, begun.dtype)) for output in begun.outputs}
    for shard in shards:
        for output, shape in shard.shapes.items():
            if output in outputs and shape is not None:
                outputs[output] = _widened(outputs[output], shape)
    return StoreManifest(
        version=VERSION,
        format=begun.format,
        outputs=outputs,
        count=sum(shard.rows for shard in shards),
        quarantined=sum(shard.images - shard.rows for shard in shards),
        shards=shards,
        fingerprint=begun.fingerprint,
        plan=PlanFacts(begun.listing_sha256, begun.pictures, begun.shard_size),
        normalize=begun.normalize,
        identity=begun.identity,
    )


def _widened(known: ColumnFacts, shape: list[int | None]) -> ColumnFacts:
    if known.shape is None or len(known.shape) != len(shape):
        return replace(known, shape=shape)
    sides = [side if side == seen else None for side, seen in zip(shape, known.shape, strict=True)]
    return replace(known, shape=sides)


def base_of(out: Path, begun: Plan) -> StoreManifest | None:
    """The manifest that an unfinished update copies from; None where it is gone."""
    for path in (out / FILE_NAME, out / BASE):
        if path.is_file():
            with suppress(BundleError):
                manifest = read_manifest_file(path)
                if manifest_hash(manifest) == begun.base:
                    return manifest
    return None


def retire(out: Path, manifest: StoreManifest) -> bool:
    """Keep the manifest that is about to be replaced, so that its files are found later.

    Returns whether a reader's lock on it can be seen.
    """
    path = out / WORK / f"old-{manifest.generation}.json"
    if path.exists():  # by a killed run, or by a process that no lock kept out
        return path.samefile(out / FILE_NAME)
    try:
        path.hardlink_to(out / FILE_NAME)
        if read_manifest_file(path).generation == manifest.generation:
            return True
        path.unlink()  # another process has just replaced it
    except OSError:
        pass
    path.write_bytes(encode_manifest(manifest))
    atomic.sync(path)
    return False


def tidy(out: Path, manifest: StoreManifest, *, retired: int | None = None) -> None:
    """Delete what earlier generations and unfinished updates left beside the complete store `manifest`.

    retired: the generation that this run has replaced, if readers of it cannot be seen; its files stay.
    What cannot be deleted now is left for the next run.
    """
    work = out / WORK
    kept, names, held = set(manifest_files(manifest)), set(), set()
    for path in sorted(work.glob("old-*.json")):
        if not _OLD.fullmatch(path.name):
            continue
        files = _listed(path)
        if path.name == f"old-{retired}.json" or _is_read(path):
            kept.update(files)
            held.add(path.name)
    names.update(work_files(out))
    with suppress(OSError, BundleError):
        (work / PLAN).unlink(missing_ok=True)  # first: without it, a parallel process knows that all is done
        remove_owned(out, (name for name in names - kept if is_shard_file(name)), is_shard_file)
        if not manifest.quarantined:
            (out / QUARANTINE).unlink(missing_ok=True)
        if held:
            for path in work.iterdir():
                if path.name not in held:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            return
        shutil.rmtree(work, ignore_errors=not can_rename_open_files())  # there our own lock is in the way


def work_files(out: Path) -> set[str]:
    """Files of shards that the records of unfinished runs and of earlier generations list."""
    names = {name for record in read_records(out) for name in record.files}
    for path in [*(out / WORK).glob("old-*.json"), out / BASE]:
        names.update(_listed(path))
    return names


def manifest_files(manifest: StoreManifest) -> Iterable[str]:
    return (name for shard in manifest.shards for name in shard.files)


def _listed(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        return list(manifest_files(read_manifest_file(path)))
    except BundleError:
        return []


def _is_read(path: Path) -> bool:
    """Whether a reader holds an old manifest, or it cannot be opened. Without locks it counts as unread."""
    try:
        with path.open("r+b") as file:
            lock(file.fileno())
    except OSError:
        return True
    return False
