"""File formats of a store: the classes that implement `Format`.

A format's module is imported when it is chosen, and imports what it needs (such as pyarrow) when it is used.

Shapes: n rows of a shard, P patches of all its rows, h, w patch grid, D dimension.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dinodeploy.arrays import AnyArray, FloatArray, IntArray
from dinodeploy.errors import MisuseError


@dataclass(frozen=True)
class Column:
    """One output of a shard.

    values: [n, ...]; or [P, D], the patches of all images one after the other, if their grids differ.
        float32; on disk also float16 or int8 (`dtypes.py`).
    grid: None; or, if grids differ, [n, 2], the (h, w) of each row.
    """

    values: AnyArray
    grid: IntArray | None = None


@dataclass(frozen=True)
class Shard:
    """Rows written together. sizes: [n, 2], width and height of the original images."""

    ids: list[str]
    sizes: IntArray
    columns: dict[str, Column]


class Format(Protocol):
    """Writes and reads shards. `index` counts them from 0; file names are relative to `root`."""

    suffix: str = ""  # of the shard's one file
    unit_length: bool = False  # readers of this format expect vectors of length 1
    dtypes: tuple[str, ...] = ("float32", "float16", "int8")  # that its readers understand

    def require(self) -> None:
        """Raise UnavailableError if a package is missing that the format needs."""

    def prepare(self) -> None:
        """Import what `write` needs, while the first rows are still computed."""

    def file(self, index: int) -> str:
        """The one file of a shard."""
        return f"shard_{index:05d}.{self.suffix}"

    def files(self, index: int, output: str) -> list[str]:
        """The files that `read` may open for one output."""
        return [self.file(index)]

    def write(self, root: Path, index: int, shard: Shard) -> list[str]:
        """Write one shard; returns the files it wrote."""

    def read(self, root: Path, index: int, output: str) -> tuple[list[str], Column]:
        """The ids and one output of a shard."""

    def sizes(self, root: Path, index: int) -> IntArray:
        """[n, 2], width and height of a shard's images; from a file that `files` names for any output."""


# Name -> module in this folder and class.
FORMATS = {
    "npy": ("npy", "Npy"),
    "parquet": ("arrow", "Parquet"),
    "lance": ("arrow", "Lance"),
    "npz": ("tensors", "Npz"),
    "safetensors": ("tensors", "Safetensors"),
    "clip-retrieval": ("npy", "ClipRetrieval"),
}

# The files of a shard that a format can write, whichever format; and its part of the listing.
_WRITTEN = re.compile(
    r"(?:([a-z][a-z0-9_]*_(?:emb|grid)|metadata|listing)/\1|shard)_(?P<number>\d{5,9})"
    r"\.(?:npy|jsonl|parquet|lance|npz|safetensors)"
)


def is_shard_file(name: str, number: int | None = None) -> bool:
    """Whether `embed` can write a file of this name for a shard, or for the shard of that number."""
    found = _WRITTEN.fullmatch(name)
    return found is not None and number in (None, int(found["number"]))


def open_format(name: str) -> Format:
    """The format of that name. Raises MisuseError for an unknown one."""
    if name not in FORMATS:
        raise MisuseError(f"format {name!r} is unknown; use one of {', '.join(FORMATS)}")
    module, cls = FORMATS[name]
    format: Format = getattr(importlib.import_module(f"{__name__}.{module}"), cls)()
    return format


def stack_rows(rows: list[FloatArray]) -> Column:
    """Rows of one output, all of one shape or each [h, w, D] -> a column."""
    if all(row.shape == rows[0].shape for row in rows):
        return Column(np.stack(rows))
    grid = np.array([row.shape[:2] for row in rows], np.int32)
    return Column(np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows]), grid)


def split_rows(column: Column) -> list[AnyArray]:
    """The inverse of `stack_rows`."""
    if column.grid is None:
        return list(column.values)
    ends = np.cumsum(column.grid.prod(axis=1))
    patches = np.split(column.values, ends[:-1])
    return [part.reshape(h, w, -1) for part, (h, w) in zip(patches, column.grid.tolist(), strict=True)]
