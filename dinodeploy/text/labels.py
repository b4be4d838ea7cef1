"""Labels of zero-shot classes, read from a text file with one per line.

encoding     UTF-8, UTF-16 or UTF-32, with or without a byte order mark (`files/text.py`)
blank lines  left out, and white space around a label too
duplicates   the first counts; a note names the others
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.errors import MisuseError, reason_of
from dinodeploy.files.text import open_text

MOST_LABELS = 100_000
MOST_BYTES = 64 << 20  # of a labels file
_SHOWN = 3  # duplicates that a note names


@dataclass(frozen=True)
class Labels:
    """Distinct class names in their order, and notes on what was left out."""

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def read_labels(path: str | Path) -> Labels:
    """The labels of a file. Raises MisuseError for a file that is missing, empty or not text."""
    file = Path(path)
    return _distinct(read_lines(file, "label", MOST_LABELS), str(file))


def labels_of(given: str | Path | Iterable[str]) -> Labels:
    """Labels from a file (a path), or the given ones. Raises MisuseError, also for an empty label."""
    if isinstance(given, (str, Path)):
        return read_labels(given)
    numbered = [(number, text.strip()) for number, text in enumerate(given, 1)]
    for number, text in numbered:
        if not text:
            raise MisuseError(f"label {number} is empty; wanted a word or a phrase")
    if not 1 <= len(numbered) <= MOST_LABELS:
        raise MisuseError(f"got {len(numbered)} labels; wanted 1 to {MOST_LABELS:,}")
    return _distinct(numbered, "labels")


def read_lines(path: Path, what: str, most: int) -> list[tuple[int, str]]:
    """(line number, text) of the lines of a file that are not blank. `what`: of one line, for messages.

    Raises MisuseError for a file that cannot be read, is no text, or has no or more than `most` such lines.
    """
    try:
        if not path.is_file():  # a FIFO would block
            raise MisuseError(
                f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; wanted a text file"
            )
        if (size := path.stat().st_size) > MOST_BYTES:
            raise MisuseError(f"{path}: {size:,} bytes; wanted a text file of at most {MOST_BYTES:,}")
        with path.open("rb") as stream, open_text(stream) as text:
            lines = text.read().split("\n")
    except OSError as error:
        raise MisuseError(f"{path}: cannot be read: {reason_of(error)}") from error
    except UnicodeError as error:
        raise MisuseError(f"{path}: not text ({reason_of(error)}); wanted one {what} per line") from error
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, line in found:
        if "\x00" in line or any("\ud800" <= sign <= "\udfff" for sign in line):
            raise MisuseError(f"{path}, line {number}: not UTF-8 text; save the file as UTF-8")
    if not found:
        raise MisuseError(f"{path} is empty; wanted one {what} per line")
    if len(found) > most:
        raise MisuseError(f"{path} has {len(found):,} lines; wanted at most {most:,}")
    return found


def _distinct(numbered: list[tuple[int, str]], where: str) -> Labels:
    first: dict[str, int] = {}
    repeated = []
    for number, text in numbered:
        if text in first:
            repeated.append(f"{text!r} in lines {first[text]} and {number}")
        first.setdefault(text, number)
    notes = []
    if repeated:
        more = f" and {len(repeated) - _SHOWN} more" if len(repeated) > _SHOWN else ""
        notes.append(f"{where}: repeated labels count once: {'; '.join(repeated[:_SHOWN])}{more}")
    return Labels(tuple(first), tuple(notes))
