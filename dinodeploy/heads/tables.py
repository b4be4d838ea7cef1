"""labels.csv: several classes, or numbers, for each image of a folder.

    file,cat,dog          multilabel: a column for each class, 1 or 0
    a.jpg,1,0
    file,labels           multilabel: one column of names, separated by | or ;
    b/c.jpg,cat|dog
    file,age,weight       regress: a column of numbers for each value
    a.jpg,3.5,12

Paths are relative to the folder.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import MisuseError, reason_of

FILE = "labels.csv"
_SEPARATOR = re.compile(r"[|;]")


@dataclass(frozen=True)
class Table:
    """Images with a row of numbers each."""

    ids: tuple[str, ...]
    values: FloatArray  # [N,K]; 0 or 1 for classes
    names: tuple[str, ...]


def read_table(folder: Path, task: str, names: tuple[str, ...] = ()) -> Table:
    """The table of `folder`. With `names`, that of a test set: it has the same classes or values.

    Raises MisuseError with the line for what cannot be read.
    """
    path = folder / FILE
    header, rows = _rows(path)
    ids = tuple(str(folder / row[0]) for _, row in rows)
    doubled, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise MisuseError(f"{path}: {doubled} has {times} lines; wanted one for each image")
    if task == "multilabel" and len(header) == 1:
        columns, values = _from_names(rows, names, path)
    else:
        columns = header
        values = [[_number(text, task, f"{path}, line {line}") for text in row[1:]] for line, row in rows]
    if names and set(columns) != set(names):
        raise MisuseError(f"{path} has the columns {', '.join(columns)}; wanted {', '.join(names)}")
    order = [columns.index(name) for name in names or columns]
    table = np.array(values, np.float32).reshape(len(rows), len(columns))[:, order]
    return Table(ids, table, names or columns)


Rows = list[tuple[int, list[str]]]


def _rows(path: Path) -> tuple[tuple[str, ...], Rows]:
    """Names of the columns after the first, and (line, cells) of every line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MisuseError(
            f"{path} cannot be read ({reason_of(error)}); wanted a line `file,NAME,…`, then one for "
            "each image"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""))
    rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    if len(rows) < 2:
        raise MisuseError(f"{path} has no images; wanted a line `file,NAME,…`, then one for each image")
    header = tuple(rows[0][1][1:])
    if not header or not all(header) or len(set(header)) < len(header):
        raise MisuseError(f"{path} starts with {rows[0][1]}; wanted `file,NAME,…` with different names")
    for line, row in rows[1:]:
        if len(row) != len(header) + 1:
            raise MisuseError(f"{path}, line {line}: {len(row)} cells; wanted {len(header) + 1}")
    return header, rows[1:]


def _from_names(rows: Rows, names: tuple[str, ...], path: Path) -> tuple[tuple[str, ...], list[list[float]]]:
    """Classes, and 0 or 1 for each, from a column with the names of those that are present."""
    found = [{part.strip() for part in _SEPARATOR.split(row[1]) if part.strip()} for _, row in rows]
    columns = names or tuple(sorted(set().union(*found)))
    for (line, _), present in zip(rows, found, strict=True):
        if unknown := sorted(present - set(columns)):
            raise MisuseError(f"{path}, line {line}: {unknown[0]!r} is not a class of the training data")
    if not columns:
        raise MisuseError(f"{path} names no class; wanted names separated by |, for example cat|dog")
    return columns, [[float(name in present) for name in columns] for present in found]


def _number(text: str, task: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if task == "multilabel" and value not in (0, 1):
        raise MisuseError(f"{where}: {text!r}; wanted 1 or 0 for every class")
    if not math.isfinite(value):
        raise MisuseError(f"{where}: {text!r}; wanted a number")
    return value
