"""Write a store of embeddings, shard by shard; `reader.py` reads it.

    OUT/embeddings.json            contents, every file with its sha256 (`StoreManifest`); written last
    OUT/quarantine.jsonl           {"id", "reason"} of each image without a row, if there are any
    OUT/listing/...                the images of each shard (`listing.py`)
    OUT/...                        the shards, in one of `dinodeploy.store.formats`
    OUT/.embed/plan.json           what is being made (`plan.py`); the folder is removed at the end
    OUT/.embed/shards/00012.json   the record of a finished shard (`shard.py`)
    OUT/.embed/work-i-of-n-.../    what a process is writing, the i-th of n

A shard is written whole or not at all, and no byte of it depends on when or where it was made. So a run may
be killed at any moment and the next run makes what is missing, several processes may each make a part, and
the resulting store is the same, byte for byte. One shard is in memory at a time.

An update (`update.py`) writes new shards beside the old ones and replaces embeddings.json at the end
(`generations.py`). Without locks, two processes of one plan write the same bytes to the same names.

Shapes: n rows of a shard, h, w patch grid, D dimension.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from dinodeploy.bundle.bundle import file_facts
from dinodeploy.errors import BundleError, MisuseError, UnavailableError, reason_of
from dinodeploy.files import atomic, schema
from dinodeploy.files.lock import can_rename_open_files
from dinodeploy.files.owned import owned_path, remove_owned
from dinodeploy.sources.stamps import Stamps
from dinodeploy.store.existing import REPLACED, Target, clear_target, drop_empty_work, inspect_target
from dinodeploy.store.follow import find_update, is_same
from dinodeploy.store.formats import Format, is_shard_file, open_format
from dinodeploy.store.generations import BASE, retire, tidy
from dinodeploy.store.listing import listing_file, write_listing
from dinodeploy.store.lock import StoreLock
from dinodeploy.store.manifest import (
    FILE_NAME,
    QUARANTINE,
    ShardFacts,
    StoreManifest,
    encode_manifest,
    make_manifest,
    read_manifest,
)
from dinodeploy.store.plan import PLAN, WORK, Plan, read_plan, write_plan
from dinodeploy.store.rows import Content, mixed_content, new_content
from dinodeploy.store.shard import (
    Quarantined,
    ShardRecord,
    ShardRows,
    check_outputs,
    encode_record,
    finished_record,
    is_intact,
    read_record,
    read_records,
    record_path,
)
from dinodeploy.store.update import FEW_IMAGES, Changes, Follow, Update, manifest_hash


class Store:
    """A store in the making: use it in a `with`, `commit` each of `remaining`, then `finish`.

    part: (i, n) makes this process the i-th of n; it makes the shards whose index modulo n is i - 1.
    overwrite: remove an existing store, finished or not, and nothing else. stamps: what its listings record
    of the images. follow: compare a store that is there with its sources, and update it if asked to.
    choose_batch: measures the batch size of a new plan for so many images.
    Raises before any work is done: MisuseError for invalid arguments, UnavailableError for a format whose
    package is missing, OutputExistsError if something else is in the way.
    """

    def __init__(
        self,
        out: Path,
        plan: Plan,
        *,
        part: tuple[int, int] = (1, 1),
        overwrite: bool = False,
        stamps: Stamps | None = None,
        follow: Follow | None = None,
        choose_batch: Callable[[int], int] | None = None,
    ) -> None:
        self.out = Path(out).resolve()  # a link is followed, not replaced
        self.plan = plan
        self._part = part
        self._overwrite = overwrite
        self._stamps = stamps
        self._follow = follow if stamps is not None else None
        self._choose_batch = choose_batch
        self._format: Format = open_format(plan.format)
        check_outputs(plan.outputs)
        self._format.require()
        if part[1] > 1 and (overwrite or (follow is not None and follow.update)):
            option = "--overwrite would remove" if overwrite else "--update would replace"
            raise MisuseError(
                f"{option} what the other parts write; update in one process, or remove the directory first"
            )
        inspect_target(self.out, plan, overwrite, images=self._follow is None)
        self._staging = self.out / WORK / f"work-{part[0]}-of-{part[1]}-{os.urandom(8).hex()}"
        self._lock: StoreLock | None = None
        self._complete = False
        self._made = not self.out.exists()
        self._kept: dict[int, ShardRecord] = {}
        self._update: Update | None = None
        self._before: StoreManifest | None = None  # the generation that an update replaces
        self._retired: int | None = None
        self.changes = Changes()

    def __enter__(self) -> Store:
        with self._stopping():
            try:
                self._lock = StoreLock(self.out, self._part)
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                raise MisuseError(
                    f"{self.out} cannot be made: {error.strerror}; choose another --out"
                ) from error
            try:
                self._begin()
            except BaseException:
                if self._part[1] == 1:
                    drop_empty_work(self.out)
                self._lock.release()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        assert self._lock is not None, "entered"
        shutil.rmtree(self._staging, ignore_errors=True)
        if self._complete:
            with suppress(BundleError, OSError):
                tidy(self.out, read_manifest(self.out), retired=self._retired)
        elif kind is not None and self._nothing_done():
            shutil.rmtree(self.out / WORK, ignore_errors=True)
            if self._made:
                with suppress(OSError):
                    self.out.rmdir()
        self._lock.release()
        if not can_rename_open_files():  # the locks can be removed only now, if no process has them open
            drop_empty_work(self.out)

    def prepare(self) -> None:
        """Import what `commit` needs, before it is needed."""
        self._format.prepare()

    @property
    def remaining(self) -> list[int]:
        """Indices of the shards that this process still has to make."""
        if self._complete:
            return []
        index, of = self._part
        return [shard for shard in range(index - 1, self.plan.shards, of) if shard not in self._kept]

    @property
    def kept(self) -> list[ShardRecord]:
        """The finished shards of this process's part."""
        return list(self._kept.values())

    def to_embed(self, index: int) -> Sequence[int]:
        """Positions of the images of a shard that are not copied from an older generation."""
        positions = self.plan.shard(index)
        if self._update is None:
            return positions
        here = self._update.copied[positions.start : positions.stop]
        return [positions.start + int(at) for at in np.flatnonzero(here < 0)]

    def start(self, index: int) -> ShardRows:
        """The rows of a shard, to fill. Call it before its images are read: it records their stamps."""
        if self._update is not None or self._stamps is None:
            return ShardRows(self.plan.outputs)
        positions = self.plan.shard(index)
        sha256 = self._stamps.hashes(positions) if self._stamps.content else None
        return ShardRows(self.plan.outputs, self._stamps.of(positions), sha256)

    def commit(self, index: int, rows: ShardRows) -> ShardRecord:
        """Write one shard durably: flushed to disk when this returns.

        Raises UnavailableError when it cannot be written; committed shards are kept.
        """
        with self._stopping():
            try:
                self.write(index, self._content(index, rows))
            except (OSError, BundleError):
                if not self._finished_elsewhere():
                    raise
                self._kept[index] = ShardRecord(len(rows.ids), {}, rows.shapes, rows.quarantined)
        return self._kept[index]

    def finish(self) -> StoreManifest | None:
        """Write embeddings.json if every shard is finished; None if other processes are still working."""
        with self._stopping():
            if self._complete:
                return read_manifest(self.out)
            try:
                self._check_there()
                manifest = self._write_manifest()
            except (OSError, BundleError):
                if not self._finished_elsewhere():
                    raise
                manifest = read_manifest(self.out)
            self._complete = manifest is not None
            return manifest

    def _check_there(self) -> None:
        """Raise if the directory was removed, or if a process that no lock keeps out plans otherwise."""
        plan = read_plan(self.out)
        if plan is None:
            raise FileNotFoundError(errno.ENOENT, "the directory has disappeared", self.out)
        if plan != self.plan:
            raise MisuseError(
                f"{self.out}: another process has begun it with other settings; wait for it to end"
            )

    def _finished_elsewhere(self) -> bool:
        """Whether another process has just finished this very store and removed the records."""
        if (self.out / WORK / PLAN).is_file() or not (self.out / FILE_NAME).is_file():
            return False
        manifest = read_manifest(self.out)
        generation = self._before.generation + 1 if self._before is not None else 1
        same = manifest.plan is not None and manifest.plan.listing_sha256 == self.plan.listing_sha256
        return same and manifest.generation >= generation

    def _begin(self) -> None:
        target = inspect_target(self.out, self.plan, self._overwrite, images=self._follow is None)
        if self._is_locked():  # left by killed processes
            for path in (self.out / WORK).glob(f"work-{self._part[0]}-of-{self._part[1]}-*"):
                shutil.rmtree(path, ignore_errors=True)
        if self._follow is not None and self._stamps is not None and target != Target():
            self.changes, self._update = find_update(self.out, self.plan, target, self._stamps, self._follow)
        if target.complete is not None and self._update is None:
            self._complete = True
            return
        if self._update is not None:
            self._before = target.complete
            self._begin_update(self._update, target)
        else:
            self._begin_first(target)
        index, of = self._part
        for shard in range(index - 1, self.plan.shards, of):
            record = self._kept_record(shard) or finished_record(self.out, self.plan.number(shard))
            if record is not None:
                self._kept[shard] = record

    def _begin_first(self, target: Target) -> None:
        if self._overwrite or target.begun is None:
            interrupted = (self.out / REPLACED).exists()
            if interrupted and self._part[1] > 1:
                raise MisuseError(f"{self.out}: its removal was interrupted; delete it, then start the parts")
            if self._overwrite or interrupted:
                clear_target(self.out)
            self._publish_plan()
        begun = read_plan(self.out)
        if begun is None:  # without locks
            raise MisuseError(f"{self.out}: another process has just written it; run the command again")
        if differences := begun.differences(self.plan):
            raise MisuseError(f"{self.out}: another part began with other settings ({differences})")
        self.plan = begun

    def _begin_update(self, update: Update, target: Target) -> None:
        if target.begun is not None and is_same(target.begun, update.plan):
            self.plan = target.begun
            return
        self.plan = self._with_batch(update.plan, min(int((update.copied < 0).sum()), FEW_IMAGES))
        for index in range(self.plan.shards):
            if not self.plan.is_kept(index):
                self._forget(self.plan.number(index), ())
                record_path(self.out, self.plan.number(index)).unlink(missing_ok=True)
        if target.complete is None or manifest_hash(target.complete) != self.plan.base:
            self._place(encode_manifest(update.old.manifest), self.out / BASE)
        self._place(write_plan(self.plan), self.out / WORK / PLAN)

    def _publish_plan(self) -> None:
        """Write the plan unless another process was first; every process then reads the same plan."""
        self.plan = self._with_batch(self.plan, self.plan.pictures)
        draft = self._staging / PLAN
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(write_plan(self.plan))
        plan = self.out / WORK / PLAN
        atomic.sync(draft)
        try:
            plan.hardlink_to(draft)  # unlike a rename, it fails if another process was first
        except OSError:
            if not plan.exists():  # a file system without hard links
                atomic.replace(draft, plan)
        for folder in (plan.parent, self.out):
            atomic.sync(folder)

    def _with_batch(self, plan: Plan, images: int) -> Plan:
        return plan if self._choose_batch is None else replace(plan, batch=self._choose_batch(images))

    def _is_locked(self) -> bool:
        return self._lock is not None and self._lock.held

    def _content(self, index: int, rows: ShardRows) -> Content:
        if (update := self._update) is None:
            return new_content(self.plan, rows)
        here = self.plan.shard(index)
        return mixed_content(self.plan, here, update.images, update.old, update.copied, rows)

    def write(self, index: int, content: Content) -> None:
        """Write one shard durably; `commit` makes its content of rows. Raises OSError."""
        self._check_there()
        number = self.plan.number(index)
        folder = self._staging / f"{number:05d}"
        folder.mkdir(parents=True)
        names = [] if content.shard is None else self._format.write(folder, number, content.shard)
        names.append(listing_file(number))
        write_listing(folder / names[-1], content.listing)
        files = {name: file_facts(folder / name) for name in names}
        record = ShardRecord(content.rows, files, content.shapes, content.quarantined)
        self._forget(number, names)
        self._place(encode_record(record), record_path(self.out, number))
        atomic.move_into_place((folder / name, owned_path(self.out, name, is_shard_file)) for name in names)
        shutil.rmtree(folder)
        self._kept[index] = record

    def _forget(self, number: int, written: Iterable[str]) -> None:
        """Remove the files that a killed process left of a shard, but those that `written` replaces."""
        try:
            record = read_record(self.out, number)
        except BundleError:
            record = None
        if record is not None:
            ours = [name for name in record.files if is_shard_file(name, number) and name not in written]
            remove_owned(self.out, ours, is_shard_file)

    def _place(self, content: bytes, target: Path) -> None:
        """Write a small file atomically."""
        draft = self._staging / target.name
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        atomic.move_into_place([(draft, target)])

    def _kept_facts(self, index: int) -> ShardFacts | None:
        """A shard of the old generation that an update keeps."""
        if self._update is None or not self.plan.is_kept(index):
            return None
        number = self.plan.number(index)
        return next(shard for shard in self._update.old.manifest.shards if shard.number == number)

    def _kept_record(self, index: int) -> ShardRecord | None:
        facts = self._kept_facts(index)
        if facts is None or self._update is None:
            return None
        old = self._update.old
        listing = old.listings[old.manifest.shards.index(facts)]
        refused = [Quarantined(listing.ids[at], reason) for at, reason in sorted(listing.quarantined.items())]
        return ShardRecord(facts.rows, facts.files, facts.shapes, refused)

    def _write_manifest(self) -> StoreManifest | None:
        records = []
        for index in range(self.plan.shards):
            number = self.plan.number(index)
            record = self._kept_record(index) or finished_record(self.out, number)
            if record is None and index in self._kept:
                raise FileNotFoundError(errno.ENOENT, f"files of shard {number} disappeared", self.out)
            if record is None:
                return None
            if not is_intact(self.out, record.files, sys.maxsize, verify=not self._is_locked()):
                raise FileNotFoundError(errno.ENOENT, f"files of shard {number} disappeared", self.out)
            records.append(record)
        before = self._before
        kept = {index: facts for index in range(self.plan.shards) if (facts := self._kept_facts(index))}
        manifest = make_manifest(self.plan, records, kept, before.generation + 1 if before else 1)
        quarantined = [entry for record in records for entry in record.quarantined]
        if quarantined:
            lines = (json.dumps(schema.dump(entry)) + "\n" for entry in quarantined)
            self._place("".join(lines).encode(), self.out / QUARANTINE)
        if before is not None and not (retire(self.out, before) and self._is_locked()):
            self._retired = before.generation
        self._place(encode_manifest(manifest), self.out / FILE_NAME)
        return manifest

    def _nothing_done(self) -> bool:
        """Whether nothing here is of use to a later run or a parallel process."""
        kept = [self.out / REPLACED, self.out / BASE, *(self.out / WORK).glob("old-*.json")]
        return self._part[1] == 1 and not read_records(self.out) and not any(path.exists() for path in kept)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Turn errors of the disk into one line that says what is kept."""
        try:
            yield
        except OSError as error:
            raise UnavailableError(
                f"{error.filename or self.out}: {reason_of(error)}; "
                f"{len(self._kept)} of {self.plan.shards} shards are "
                "kept: fix it and run the same command again"
            ) from error
