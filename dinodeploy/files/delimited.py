"""Read CSV and TSV: a header and rows of text, as spreadsheets and databases write them.

encoding      UTF-8, UTF-16 or UTF-32 (`files.text`)
delimiter     comma, semicolon, tab or bar: the most frequent in the header outside of quotes;
              a first line `sep=;`, which Excel writes, decides
cells         up to 256 MiB; in quotes they may hold delimiters, line breaks and doubled quotes
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from dinodeploy.errors import MisuseError, reason_of
from dinodeploy.files.text import open_text

DELIMITERS = ",;\t|"
_EXCEL = re.compile("sep=(.)[\r\n]*", re.IGNORECASE)
LONGEST_CELL = 1 << 28  # characters; the csv module's limit of 131,072 is less than an image in base64


@dataclass(frozen=True)
class Delimited:
    """A table of text. rows: cells as written, blank lines left out; a row may be shorter or longer."""

    names: list[str]
    rows: Iterator[list[str]]
    delimiter: str


def read_delimited(stream: BinaryIO, where: str) -> Delimited:
    """The header of a table, and its rows, which are read from `stream` as they are asked for.

    Raises MisuseError, also while rows are read, for an empty file, for what is not text, and for a quote
    that is opened and not closed.
    """
    csv.field_size_limit(max(LONGEST_CELL, csv.field_size_limit()))
    lines = _Lines(open_text(stream), where)
    first = _first_record(lines)
    if found := _EXCEL.fullmatch(first[0]):
        delimiter = found[1]
        lines.repeat(first[1:])
    else:
        delimiter = max(DELIMITERS, key=_outside_quotes("".join(first)).count)
        lines.repeat(first)
    rows = _records(lines, delimiter, where)
    names = [name.strip() for name in next(rows, [])]
    if not any(names):
        raise MisuseError(f"{where!r} is empty; wanted a table with a header")
    return Delimited(names, rows, delimiter)


class _Lines:
    """The lines of a text; `ended` once another one than the last was asked for."""

    def __init__(self, text: Iterable[str], where: str) -> None:
        self._text = iter(text)
        self._where = where
        self._again: deque[str] = deque()
        self.number = 0  # of the line given last
        self.ended = False

    def repeat(self, lines: list[str]) -> None:
        """Give the lines given last once more."""
        self._again.extendleft(reversed(lines))
        self.number -= len(lines)
        self.ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        try:
            line = self._again.popleft() if self._again else next(self._text)
        except StopIteration:
            self.ended = True
            raise
        except (OSError, ValueError) as error:
            raise MisuseError(f"{self._where!r} cannot be read: {reason_of(error)}") from error
        self.number += 1
        if "\0" in line:
            raise MisuseError(
                f"{self._where!r}: line {self.number} is not text; wanted a table with a header"
            )
        return line


def _first_record(lines: _Lines) -> list[str]:
    """The first line that is not blank, with those that follow until its quotes are closed.

    Only that line where they never are.
    """
    record: list[str] = []
    quotes = 0
    for line in lines:
        if record or line.strip():
            record.append(line)
            quotes += line.count('"')
            if quotes % 2 == 0:
                return record
    lines.repeat(record[1:])
    return record[:1] or [""]


def _outside_quotes(record: str) -> str:
    return "".join(record.split('"')[::2])


def _records(lines: _Lines, delimiter: str, where: str) -> Iterator[list[str]]:
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        begins = lines.number
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise MisuseError(
                f"{where!r}: row at line {begins + 1} cannot be read: {reason_of(error)}"
            ) from error
        if lines.ended:  # the reader wanted another line to finish this row
            raise MisuseError(
                f"{where!r}: the row at line {begins + 1} opens a quote and never closes it; "
                "close it, or double the quotes inside cells"
            )
        if row:
            yield row
