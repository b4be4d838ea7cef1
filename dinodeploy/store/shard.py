"""One shard: its rows while it is made, and the record of a finished one, OUT/.embed/shards/00012.json.

A record is written before the files of its shard are moved into place. So a shard is finished when its record
exists and every file listed in it is in place with its size, and the files of an interrupted run are known by
name.

Shapes: n rows, h, w patch grid, D dimension.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinodeploy.arrays import ByteArray, FloatArray, IndexArray
from dinodeploy.bundle.bundle import sha256_file
from dinodeploy.bundle.manifest import FileFacts
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files import schema
from dinodeploy.store.dtypes import SCALE
from dinodeploy.store.formats import Column, is_shard_file, stack_rows
from dinodeploy.store.plan import WORK, Plan

RECORDS = f"{WORK}/shards"
UNKNOWN_SIZE = -1  # of a file of an older store
Shape = list[int | None]  # of a row; None for a side that differs between rows

# Outputs become column and folder names beside these.
_RESERVED = ("id", "ids", "size", "width", "height", "img")
_OUTPUT_NAME = re.compile(rf"[a-z][a-z0-9_]*(?<!_grid)(?<!{SCALE})")


@dataclass(frozen=True)
class Quarantined:
    """An image without a row, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One image: its id, original width and height in pixels, and a float32 array per output."""

    id: str
    size: tuple[int, int]
    values: dict[str, FloatArray]


class ShardRows:
    """The rows of one shard: added in any order, read in the order of the listing.

    stamps, sha256: of all images of the shard (`listing.py`), where they are recorded.
    """

    def __init__(
        self, outputs: Sequence[str], stamps: IndexArray | None = None, sha256: ByteArray | None = None
    ) -> None:
        self.outputs = tuple(outputs)
        self.stamps = stamps
        self.sha256 = sha256
        self.shapes: dict[str, Shape | None] = dict.fromkeys(self.outputs)
        self._rows: dict[int, Row] = {}
        self._quarantined: dict[int, Quarantined] = {}

    def add(self, position: int, id: str, values: Mapping[str, FloatArray], size: tuple[int, int]) -> str:
        """Add the image at `position` of the listing.

        Returns why it was refused, or an empty string: a row that is not finite cannot be searched.
        Raises MisuseError for a row whose shape does not fit the rows before it.
        """
        kept = {}
        for output in self.outputs:
            value = np.array(values[output])  # a copy: engines reuse their output buffers
            if value.dtype != np.float32:
                raise MisuseError(f"output {output!r} of {id!r}: got {value.dtype}, wanted float32")
            if not np.isfinite(value).all():
                return f"the engine's output {output!r} is not finite for this image"
            kept[output] = value
        for output, value in kept.items():
            self.shapes[output] = merge_shapes(self.shapes[output], list(value.shape), output, id)
        self._rows[position] = Row(id, size, kept)
        return ""

    def quarantine(self, position: int, id: str, reason: str) -> None:
        """Add an image that has no row."""
        self._quarantined[position] = Quarantined(id, reason)

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self._sorted()]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [row.size for row in self._sorted()]

    @property
    def quarantined(self) -> list[Quarantined]:
        return [self._quarantined[position] for position in sorted(self._quarantined)]

    @property
    def positions(self) -> list[int]:
        """Of the rows, in order."""
        return sorted(self._rows)

    def listed(self) -> dict[int, tuple[str, str | None]]:
        """Every image by position, in order: its id, and the reason where it is quarantined."""
        found: dict[int, tuple[str, str | None]] = {at: (row.id, None) for at, row in self._rows.items()}
        found |= {at: (entry.id, entry.reason) for at, entry in self._quarantined.items()}
        return dict(sorted(found.items()))

    def column(self, output: str) -> Column:
        """One output of every row: [n, ...], or the patches of all images where their grids differ."""
        return stack_rows([row.values[output] for row in self._sorted()])

    def _sorted(self) -> list[Row]:
        return [self._rows[position] for position in sorted(self._rows)]


def merge_shapes(known: Shape | None, shape: Shape | None, output: str, where: str) -> Shape | None:
    """The common shape of earlier rows (`known`) and new ones; only the grid of [h, w, D] may differ.

    Raises MisuseError that names the new rows `where`.
    """
    if known is None or shape is None:
        return shape if known is None else known
    is_map = len(known) == len(shape) == 3
    if not (known == shape or (is_map and known[2] == shape[2])):
        raise MisuseError(f"output {output!r} of {where!r}: got shape {shape}, wanted {known}")
    return [side if side == seen else None for side, seen in zip(shape, known, strict=True)]


def check_outputs(outputs: Sequence[str]) -> None:
    """Raise MisuseError for names that cannot be columns."""
    if not outputs or len(set(outputs)) < len(outputs):
        raise MisuseError(f"outputs: got {', '.join(outputs) or 'none'}, wanted at least one, each once")
    for output in outputs:
        if output in _RESERVED or not _OUTPUT_NAME.fullmatch(output):
            raise MisuseError(f"output {output!r} cannot name a column; wanted one like cls, patch, layer_3")


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard. shapes: of a row of each output; null without rows."""

    rows: int
    files: dict[str, FileFacts]
    shapes: dict[str, Shape | None]
    quarantined: list[Quarantined]

    @property
    def images(self) -> int:
        """Number of images, quarantined ones included."""
        return self.rows + len(self.quarantined)


def record_path(out: Path, number: int) -> Path:
    return out / RECORDS / f"{number:05d}.json"


def read_record(out: Path, number: int) -> ShardRecord | None:
    """The record of the shard of that number, or None. Raises BundleError for a damaged one."""
    path = record_path(out, number)
    return schema.read(ShardRecord, path, "store") if path.is_file() else None


def encode_record(record: ShardRecord) -> bytes:
    return json.dumps(schema.dump(record)).encode() + b"\n"


def read_records(out: Path) -> list[ShardRecord]:
    """Every readable record."""
    found = []
    for path in sorted((out / RECORDS).glob("*.json")):
        try:
            found.append(schema.read(ShardRecord, path, "store"))
        except BundleError:
            continue
    return found


def finished_record(out: Path, number: int) -> ShardRecord | None:
    """The record of a finished shard; None if the shard has to be made (again)."""
    try:
        record = read_record(out, number)
    except BundleError:  # cut off by a power failure
        return None
    if record is None or not all(is_shard_file(name, number) for name in record.files):
        return None
    written = record_path(out, number).stat().st_mtime_ns
    return record if is_intact(out, record.files, written) else None


def is_intact(out: Path, files: Mapping[str, FileFacts], written: int, *, verify: bool = False) -> bool:
    """Whether every file is there as it was written: by its size, and by its hash if newer than `written`.

    written: when the record of the files was written, in ns. verify: check every hash.
    """
    for name, facts in files.items():
        path = out / name
        try:
            status = path.stat()
        except (OSError, ValueError):  # a damaged record may list something that is not a file name
            return False
        if not stat.S_ISREG(status.st_mode) or facts.bytes not in (status.st_size, UNKNOWN_SIZE):
            return False
        if (verify or status.st_mtime_ns > written) and sha256_file(path) != facts.sha256:
            return False
    return True


def count_finished(out: Path, plan: Plan) -> int:
    """Number of finished shards, kept ones included."""
    return sum(
        plan.is_kept(index) or finished_record(out, plan.number(index)) is not None
        for index in range(plan.shards)
    )
