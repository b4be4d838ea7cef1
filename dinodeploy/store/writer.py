"""Write a store of embeddings, shard by shard; `reader.py` reads it.

    OUT/embeddings.json            contents, every file with its sha256 (`StoreManifest`); written last
    OUT/quarantine.jsonl           {"id", "reason"} of each image without a row, if there are any
    OUT/...                        the shards, in one of `dinodeploy.store.formats`
    OUT/.embed/plan.json           what is being made (`plan.py`); the folder is removed at the end
    OUT/.embed/shards/00012.json   the record of a finished shard (`shard.py`)
    OUT/.embed/work-i-of-n/        what process i of n is writing

A shard is written whole or not at all, and no byte of it depends on when or where it was made. So a run may
be killed at any moment and the next run makes what is missing, several processes may each make a part, and
the resulting store is the same, byte for byte. One shard is in memory at a time.

Shapes: n rows of a shard, h, w patch grid, D dimension.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from dinodeploy.bundle.bundle import file_facts
from dinodeploy.errors import BundleError, MisuseError, UnavailableError, reason_of
from dinodeploy.files import atomic, schema
from dinodeploy.files.owned import owned_path, remove_owned
from dinodeploy.store.dtypes import pack, unit_length
from dinodeploy.store.existing import REPLACED, clear_target, inspect_target
from dinodeploy.store.formats import Column, Format, Shard, is_shard_file, open_format
from dinodeploy.store.lock import StoreLock
from dinodeploy.store.manifest import (
    FILE_NAME,
    QUARANTINE,
    VERSION,
    ColumnFacts,
    PlanFacts,
    ShardFacts,
    StoreManifest,
    read_manifest,
)
from dinodeploy.store.plan import PLAN, WORK, Plan, read_plan, write_plan
from dinodeploy.store.shard import (
    Shape,
    ShardRecord,
    ShardRows,
    check_outputs,
    encode_record,
    merge_shapes,
    read_record,
    read_records,
    record_path,
)


class Store:
    """A store in the making: use it in a `with`, `commit` each of `remaining`, then `finish`.

    part: (i, n) makes this process the i-th of n; it makes the shards whose index modulo n is i - 1.
    overwrite: remove an existing store, finished or not, and nothing else.
    Raises before any work is done: MisuseError for invalid arguments, UnavailableError for a format whose
    package is missing, OutputExistsError if something else is in the way.
    """

    def __init__(
        self, out: Path, plan: Plan, *, part: tuple[int, int] = (1, 1), overwrite: bool = False
    ) -> None:
        self.out = Path(out).resolve()  # a link is followed, not replaced
        self.plan = plan
        self._part = part
        self._overwrite = overwrite
        self._format: Format = open_format(plan.format)
        check_outputs(plan.outputs)
        self._format.require()
        if overwrite and part[1] > 1:
            raise MisuseError(
                "--overwrite would remove what the other parts write; remove the directory first"
            )
        inspect_target(self.out, plan, overwrite)
        self._staging = self.out / WORK / f"work-{part[0]}-of-{part[1]}"
        self._lock: StoreLock | None = None
        self._complete = False
        self._made = not self.out.exists()
        self._kept: dict[int, ShardRecord] = {}

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
                self._lock.release()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        assert self._lock is not None, "entered"
        shutil.rmtree(self._staging, ignore_errors=True)
        if self._complete or (kind is not None and self._nothing_done()):
            shutil.rmtree(self.out / WORK, ignore_errors=True)
            if self._made and not self._complete:
                with suppress(OSError):
                    self.out.rmdir()
        self._lock.release()

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

    @property
    def _alone(self) -> bool:
        return self._part[1] == 1

    def commit(self, index: int, rows: ShardRows) -> ShardRecord:
        """Write one shard durably: flushed to disk when this returns.

        Raises UnavailableError when it cannot be written; committed shards are kept.
        """
        with self._stopping():
            self._check_there()
            folder = self._staging / f"{index:05d}"
            folder.mkdir(parents=True)
            names = self._write(folder, index, rows)
            files = {name: file_facts(folder / name) for name in names}
            record = ShardRecord(len(rows.ids), files, rows.shapes, rows.quarantined)
            self._forget(index, names)
            self._place(encode_record(record), record_path(self.out, index))
            atomic.move_into_place(
                (folder / name, owned_path(self.out, name, is_shard_file)) for name in names
            )
            shutil.rmtree(folder)
            self._kept[index] = record
        return record

    def finish(self) -> StoreManifest | None:
        """Write embeddings.json if every shard is finished; None if other processes are still working."""
        with self._stopping():
            if self._complete:
                return read_manifest(self.out)
            try:
                self._check_there()
                manifest = self._write_manifest()
            except (OSError, BundleError):
                # another process may just have finished the store and removed the records
                if not (self.out / FILE_NAME).is_file():
                    raise
                manifest = read_manifest(self.out)
            self._complete = manifest is not None
            return manifest

    def _check_there(self) -> None:
        """Raise if the directory was removed meanwhile: a store with missing shards must not be finished."""
        if not (self.out / WORK / PLAN).is_file():
            raise FileNotFoundError(errno.ENOENT, "the directory has disappeared", self.out)

    def _begin(self) -> None:
        target = inspect_target(self.out, self.plan, self._overwrite)  # again, now under the lock
        if target.complete is not None:
            self._complete = True
            return
        shutil.rmtree(self._staging, ignore_errors=True)  # left by a killed process
        if self._overwrite or target.begun is None:
            if self._alone:
                clear_target(self.out)
            elif (self.out / REPLACED).exists():
                raise MisuseError(
                    f"{self.out}: removing the old store was interrupted; delete it, then start the parts"
                )
            self._publish_plan()
        begun = read_plan(self.out)
        assert begun is not None, "just written"
        if differences := begun.differences(self.plan):
            raise MisuseError(f"{self.out}: another part began with other settings ({differences})")
        self.plan = begun
        index, of = self._part
        for shard in range(index - 1, self.plan.shards, of):
            if (record := _finished(self.out, shard)) is not None:
                self._kept[shard] = record

    def _publish_plan(self) -> None:
        """Write the plan unless another process was first; every process then reads the same plan."""
        draft = self._staging / PLAN
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(write_plan(self.plan))
        plan = self.out / WORK / PLAN
        atomic.sync(draft)
        try:
            plan.hardlink_to(draft)  # unlike a rename, it fails if another process was first
        except OSError:
            if not plan.exists():  # a file system without hard links
                draft.replace(plan)
        atomic.sync(plan.parent)
        atomic.sync(self.out)

    def _write(self, folder: Path, index: int, rows: ShardRows) -> list[str]:
        if not rows.ids:
            return []
        columns = {}
        for output in self.plan.outputs:
            column = rows.column(output)
            if self.plan.normalize:
                column = Column(unit_length(column.values)[0], column.grid)
            columns.update(pack(output, column, self.plan.dtype))
        return self._format.write(folder, index, Shard(rows.ids, np.array(rows.sizes, np.int32), columns))

    def _forget(self, index: int, written: Iterable[str]) -> None:
        """Remove the files that a killed process left of a shard, but those that `written` replaces."""
        try:
            record = read_record(self.out, index)
        except BundleError:
            record = None
        if record is not None:
            ours = [name for name in record.files if is_shard_file(name, index) and name not in written]
            remove_owned(self.out, ours, is_shard_file)

    def _place(self, content: bytes, target: Path) -> None:
        """Write a small file atomically."""
        draft = self._staging / target.name
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        atomic.move_into_place([(draft, target)])

    def _write_manifest(self) -> StoreManifest | None:
        records = []
        for index in range(self.plan.shards):
            record = _finished(self.out, index)
            if record is None and index in self._kept:
                raise FileNotFoundError(errno.ENOENT, f"files of shard {index} disappeared", self.out)
            if record is None:
                return None
            records.append(record)
        manifest = _manifest(self.plan, records)
        quarantined = [entry for record in records for entry in record.quarantined]
        if quarantined:
            lines = (json.dumps(schema.dump(entry)) + "\n" for entry in quarantined)
            self._place("".join(lines).encode(), self.out / QUARANTINE)
        text = json.dumps(schema.dump(manifest), indent=2) + "\n"
        self._place(text.encode(), self.out / FILE_NAME)
        return manifest

    def _nothing_done(self) -> bool:
        """Whether nothing here is of use to a later run or a parallel process."""
        return self._alone and not read_records(self.out) and not (self.out / REPLACED).exists()

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


def _finished(out: Path, index: int) -> ShardRecord | None:
    """The record of a finished shard; None if the shard has to be made (again)."""
    try:
        record = read_record(out, index)
    except BundleError:  # cut off by a power failure
        return None
    if record is None or not all(is_shard_file(name, index) for name in record.files):
        return None
    return record if record.in_place(out) else None


def _manifest(plan: Plan, records: Sequence[ShardRecord]) -> StoreManifest:
    shapes: dict[str, Shape | None] = dict.fromkeys(plan.outputs)
    for index, record in enumerate(records):
        for output in plan.outputs:
            shapes[output] = merge_shapes(shapes[output], record.shapes[output], output, f"shard {index}")
    return StoreManifest(
        version=VERSION,
        format=plan.format,
        outputs={output: ColumnFacts(shape, plan.dtype) for output, shape in shapes.items()},
        count=sum(record.rows for record in records),
        quarantined=sum(len(record.quarantined) for record in records),
        shards=[
            ShardFacts(record.rows, {name: file.sha256 for name, file in record.files.items()})
            for record in records
        ],
        fingerprint=plan.fingerprint,
        plan=PlanFacts(plan.listing_sha256, plan.pictures, plan.shard_size),
        normalize=plan.normalize,
    )
