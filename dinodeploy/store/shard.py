"""One shard: its rows while it is made, and the record of a finished one, OUT/.embed/shards/00012.json.

A record is written before the files of its shard are moved into place. So a shard is finished when its record
exists and every file listed in it is in place with its size, and the files of an interrupted run are known by
name.

Shapes: n rows, h, w patch grid, D dimension.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.manifest import FileFacts
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files import schema
from dinodeploy.store.dtypes import SCALE
from dinodeploy.store.formats import Column, stack_rows
from dinodeploy.store.plan import WORK

RECORDS = f"{WORK}/shards"
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
    """The rows of one shard: added in any order, read in the order of the listing."""

    def __init__(self, outputs: Sequence[str]) -> None:
        self.outputs = tuple(outputs)
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

    def in_place(self, out: Path) -> bool:
        """Whether every file is in place with its size. Hashes are checked when the files are read."""
        return all(_size(out / name) == file.bytes for name, file in self.files.items())


def record_path(out: Path, index: int) -> Path:
    return out / RECORDS / f"{index:05d}.json"


def read_record(out: Path, index: int) -> ShardRecord | None:
    """The record of a shard, or None. Raises BundleError for a damaged one."""
    path = record_path(out, index)
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


def count_finished(out: Path) -> int:
    """Number of finished shards."""
    return sum(record.in_place(out) for record in read_records(out))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # a damaged record may list something that is not a file name
        return None
