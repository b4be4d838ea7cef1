"""A directory of predictions in the making; a killed run resumes, and the result is the same, byte for byte.

OUT/.embed/plan.json            what is being made (`store/plan.py`); the folder is removed at the end
OUT/.embed/shards/00012.jsonl   a finished shard: its files, then one line per image
OUT/.embed/result/...           the files of finished shards
OUT/.embed/segments/...         pieces of overlay videos
OUT/.embed/work-.../            what a process is writing

A shard is written whole or not at all. At the end the tables are written beside the files, and everything
moves to OUT, `predictions.jsonl` last: where it is, the directory is complete. What is there before stays
until then. With `out` None the rows are kept in memory and nothing is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinodeploy.errors import BundleError, MisuseError, OutputExistsError, UnavailableError, reason_of
from dinodeploy.files import atomic
from dinodeploy.files.json_file import parse_json
from dinodeploy.files.owned import first_foreign, owned_path
from dinodeploy.files.system_files import is_free
from dinodeploy.pipeline.decode import default_decoders
from dinodeploy.sources.stamps import Stamps
from dinodeploy.store.lock import StoreLock
from dinodeploy.store.plan import PLAN, WORK, Plan, read_plan, write_plan
from dinodeploy.store.shard import Quarantined
from dinodeploy.tasks.results.files import PAGE_ITEM, WRITTEN
from dinodeploy.tasks.results.pending import Made, Make, PredictionRows, Workers

FORMAT = "predictions"  # of a plan
TABLE = "predictions.jsonl"  # marks a directory as written by `predict`
QUARANTINE = "quarantine.jsonl"
TABLES = (TABLE, QUARANTINE, "annotations.json", "panoptic.json")
_RESULT, _SEGMENTS, _SHARDS = f"{WORK}/result", f"{WORK}/segments", f"{WORK}/shards"


# draft folder, shard number, rows -> files that go to `segments`; they leave the draft folder
Gather = Callable[[Path, int, Sequence[dict[str, Any]]], list[str]]
# result folder, segment folder, function that reads all rows
Finish = Callable[[Path, Path, Callable[[], Iterator[dict[str, Any]]]], None]


@dataclass
class Kept:
    """A finished shard, as far as a run that resumes needs it."""

    images: int
    quarantined: list[Quarantined] = field(default_factory=list)


def _is_made(name: str) -> bool:
    return WRITTEN.fullmatch(name.rpartition("/")[2]) is not None or name.endswith(("_piece.mkv", PAGE_ITEM))


def is_ours(name: str) -> bool:
    """Whether `predict` can write a file of this name into its directory."""
    return name in TABLES or WRITTEN.fullmatch(name) is not None or name.endswith(".html")


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse to replace anything but predictions, and these without `overwrite`. Raises OutputExistsError."""
    if is_free(out) or (out.is_dir() and read_plan(out) is not None and not (out / TABLE).is_file()):
        return
    if not (out / TABLE).is_file():
        raise OutputExistsError(f"{out} exists and holds no {TABLE}; choose another --out")
    if foreign := first_foreign(out, lambda name: is_ours(name) or name.startswith(f"{WORK}/")):
        raise OutputExistsError(
            f"{out} also holds {foreign!r}, so it is not replaced; move it, or choose another --out"
        )
    if not overwrite:
        raise OutputExistsError(f"{out} holds predictions already; give --overwrite or another --out")


class PredictionStore:
    """Predictions in the making: use it in a `with`, commit each of `remaining`, then `finish`."""

    def __init__(
        self, out: Path | None, plan: Plan, make: Make, *, stamps: Stamps, overwrite: bool = False
    ) -> None:
        self.plan = plan
        self._out = Path(out).resolve() if out is not None else None
        self._staging = (self._out or Path()) / WORK / f"work-{os.urandom(8).hex()}"
        self._workers = Workers(make, default_decoders())
        self._stamps = stamps
        self._overwrite = overwrite
        self._is_ours = False  # whether what was begun at `out` are these predictions
        self._kept: dict[int, Kept] = {}
        self._rows: list[dict[str, Any]] = []
        self._quarantined: list[Quarantined] = []
        self.each: Callable[[dict[str, Any]], None] = lambda row: None
        self.gather: Gather = lambda folder, number, rows: []

    def __enter__(self) -> PredictionStore:
        if self._out is not None:
            with self._stopping():
                self._new = not self._out.exists()
                try:
                    self._lock = StoreLock(self._out, (1, 1))
                except (FileExistsError, NotADirectoryError, PermissionError) as error:
                    raise MisuseError(
                        f"{self._out} cannot be made: {error.strerror}; choose another --out"
                    ) from error
                try:
                    self._begin(self._out)
                except BaseException:
                    self._clean(self._out)
                    raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self._workers.close()
        if self._out is not None:
            self._clean(self._out)

    def prepare(self) -> None:
        """Nothing to load before the first commit."""

    @property
    def remaining(self) -> list[int]:
        """Indices of the shards to make."""
        return [index for index in range(self.plan.shards) if index not in self._kept]

    @property
    def kept(self) -> list[Kept]:
        """The shards that an earlier run has finished."""
        return list(self._kept.values())

    def to_embed(self, index: int) -> Sequence[int]:
        """Positions of a shard's images."""
        return self.plan.shard(index)

    def start(self, index: int) -> PredictionRows:
        """The rows of a shard, to fill; call it before its images are read: it records their stamps."""
        folder = None
        if self._out is not None:
            folder = self._staging / f"{index:05d}"
            folder.mkdir(parents=True)
        return PredictionRows(self.plan.outputs, self._workers, folder, self._stamp(index))

    def commit(self, index: int, rows: PredictionRows) -> None:
        """Keep a shard; it is on disk when this returns. Raises UnavailableError; earlier shards are kept."""
        made = rows.wait()
        if self._out is None:
            self._rows += [one.row for one in made if not one.reason]
        else:
            assert rows.folder is not None
            with self._stopping():
                self._write(self._out, index, rows, made)
        self._quarantined += [Quarantined(one.row["id"], one.reason) for one in made if one.reason]
        for one in made:
            if not one.reason:
                self.each(one.row)

    def finish(self, finish: Finish) -> tuple[int, list[Quarantined]]:
        """Publish the predictions; their number, and what has none. `finish`: writes what all rows make."""
        if self._out is None:
            return len(self._rows), self._quarantined
        with self._stopping():
            result = self._out / _RESULT
            result.mkdir(parents=True, exist_ok=True)
            count, quarantined = 0, []
            with _lines(result / TABLE) as write, _lines(result / QUARANTINE) as refuse:
                for entry in self._entries(self._out):
                    if reason := entry.get("reason"):
                        quarantined.append(Quarantined(entry["row"]["id"], reason))
                        refuse({"id": entry["row"]["id"], "reason": reason})
                    else:
                        count += 1
                        write(entry["row"])
            finish(result, self._out / _SEGMENTS, self._finished_rows)
            self._publish(self._out, result)
        return count, quarantined

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of a run without a directory."""
        return self._rows

    def _finished_rows(self) -> Iterator[dict[str, Any]]:
        assert self._out is not None
        return (entry["row"] for entry in self._entries(self._out) if "reason" not in entry)

    def _stamp(self, index: int) -> str:
        """What shows that an image of a shard has changed since."""
        return hashlib.sha256(self._stamps.of(self.plan.shard(index)).tobytes()).hexdigest()

    def _begin(self, out: Path) -> None:
        for path in (out / WORK).glob("work-*"):  # left by killed processes
            shutil.rmtree(path, ignore_errors=True)
        begun = read_plan(out)
        if begun is not None and begun.format != FORMAT:
            raise OutputExistsError(f"{out} holds embeddings that are being made; choose another --out")
        if begun is not None and (differences := begun.differences(self.plan)):
            if not self._overwrite:
                raise OutputExistsError(
                    f"{out} was started with other settings ({differences}); pass --overwrite to start "
                    "again, or choose another --out"
                )
            self._drop(out)
            begun = None
        self._is_ours = True
        if begun is None:
            self._drop(out)
            self._place(write_plan(self.plan), out / WORK / PLAN)
        else:
            self.plan = begun
        for index in range(self.plan.shards):
            if (kept := self._kept_shard(out, index)) is not None:
                self._kept[index] = kept

    def _drop(self, out: Path) -> None:
        (out / WORK / PLAN).unlink(missing_ok=True)
        for folder in (_SHARDS, _RESULT, _SEGMENTS):
            shutil.rmtree(out / folder, ignore_errors=True)

    def _kept_shard(self, out: Path, index: int) -> Kept | None:
        """A shard that is whole, and whose images are as they were."""
        path = out / _SHARDS / f"{index:05d}.jsonl"
        try:
            head, *entries = _read_lines(path)
            if head["stamp"] != self._stamp(index) or len(entries) != len(self.plan.shard(index)):
                return None
            for name, size in head["files"].items():
                folders = (f"{_RESULT}/", f"{_SEGMENTS}/", "")
                there = [owned_path(out, f"{folder}{name}", _is_made) for folder in folders]
                if not any(one.is_file() and one.stat().st_size == size for one in there):
                    return None
            refused = [Quarantined(one["row"]["id"], one["reason"]) for one in entries if "reason" in one]
        except (OSError, BundleError, KeyError, TypeError, ValueError, AttributeError):
            return None
        return Kept(len(entries), refused)

    def _entries(self, out: Path) -> Iterator[dict[str, Any]]:
        for index in range(self.plan.shards):
            _, *entries = _read_lines(out / _SHARDS / f"{index:05d}.jsonl")
            yield from entries

    def _write(self, out: Path, index: int, rows: PredictionRows, made: Sequence[Made]) -> None:
        folder = rows.folder
        assert folder is not None
        segments = self.gather(folder, index, [one.row for one in made if not one.reason])
        names = sorted(path.name for path in folder.iterdir())
        places = {name: out / (_SEGMENTS if name in segments else _RESULT) / name for name in names}
        head = {"stamp": rows.stamp, "files": {name: (folder / name).stat().st_size for name in names}}
        atomic.move_into_place((folder / name, places[name]) for name in names)
        lines = [head, *({"row": one.row, **({"reason": one.reason} if one.reason else {})} for one in made)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self._place(text.encode(), out / _SHARDS / f"{index:05d}.jsonl")
        shutil.rmtree(folder)

    def _place(self, content: bytes, target: Path) -> None:
        draft = self._staging / target.name
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        atomic.move_into_place([(draft, target)])

    def _publish(self, out: Path, result: Path) -> None:
        """Move the result to `out`. Old predictions go first, so that no table stands for other files."""
        names = sorted(path.name for path in result.iterdir())
        listed = {name for name in names if name != TABLE}
        for index in range(self.plan.shards):
            listed |= set(next(_read_lines(out / _SHARDS / f"{index:05d}.jsonl"))["files"])
        (out / TABLE).unlink(missing_ok=True)
        for path in out.iterdir():
            if path.is_file() and is_ours(path.name) and path.suffix != ".html" and path.name not in listed:
                path.unlink()
        moves = [name for name in names if name != TABLE] + [TABLE]
        atomic.move_into_place((result / name, out / name) for name in moves)
        (out / WORK / PLAN).unlink()

    def _clean(self, out: Path) -> None:
        """Remove what is of no use to a later run."""
        shutil.rmtree(self._staging, ignore_errors=True)
        made = any((out / _SHARDS).glob("*.jsonl"))
        if not (out / WORK / PLAN).is_file() or (self._is_ours and not made):
            shutil.rmtree(out / WORK, ignore_errors=True)
            if self._new:
                with suppress(OSError):
                    out.rmdir()
        self._lock.release()

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Turn errors of the disk into one line that says what is kept."""
        try:
            yield
        except OSError as error:
            raise UnavailableError(
                f"{error.filename or self._out}: {reason_of(error)}; finished images are kept: fix it and "
                "run the same command again"
            ) from error


@contextmanager
def _lines(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes a line of JSON. What is not UTF-8 in a name becomes an escape: \\udce9."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        yield lambda row: print(json.dumps(row, ensure_ascii=False), file=file)


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a shard. Raises OSError, BundleError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield parse_json(line, f"{path}, line {number}", "ids")
