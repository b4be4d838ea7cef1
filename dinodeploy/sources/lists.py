"""A list file: one picture a line, a path or a URL.

Relative paths start at the list's folder; those of `-`, standard input, start here. Empty lines and lines
that begin with # are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

from dinodeploy.errors import MisuseError, reason_of
from dinodeploy.sources import remote
from dinodeploy.sources.ids import PackedIds
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.paths import FileSource
from dinodeploy.sources.place import Place


def open_place(place: Place, options: SourceOptions) -> list[FileSource]:
    """The pictures of a list. Raises MisuseError where it cannot be read."""
    try:
        with place.open() as file:
            return [_source(file, place.beside, options)]
    except OSError as error:
        raise MisuseError(
            f"{place.name!r} cannot be read: {reason_of(error)}; wanted a list of paths"
        ) from error


def open_stdin(options: SourceOptions) -> FileSource:
    """The pictures that standard input names."""
    return _source(sys.stdin.buffer, str, options)


def _source(lines: Iterable[bytes], beside: Callable[[str], str], options: SourceOptions) -> FileSource:
    return FileSource(PackedIds(_paths(lines, beside)), options.timeout)


def _paths(lines: Iterable[bytes], beside: Callable[[str], str]) -> Iterator[str]:
    schemes: set[str] = set()
    for number, line in enumerate(lines):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line  # a mark that Windows writes
        path = text.decode("utf-8", "surrogateescape").rstrip("\r\n")
        if "\0" in path:
            raise MisuseError(f"line {number + 1} of the list is no text; wanted one path a line")
        if path.strip() and not path.startswith("#"):
            yield remote.require(path, schemes) if remote.is_url(path) else beside(path)
