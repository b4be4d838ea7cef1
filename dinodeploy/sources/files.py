"""Images stored one per file, local or remote, and text files that list them.

The id of an image is its path or URL, unless an id is given. A list has one path or URL per line; relative
paths start at the list's folder, those from standard input (`-`) at the current one. Empty lines and lines
that begin with # are skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import BinaryIO

from dinodeploy.errors import MisuseError, reason_of
from dinodeploy.files.paths import as_written, from_file_url, native_path
from dinodeploy.files.text import open_text
from dinodeploy.sources import remote
from dinodeploy.sources.folders import Skipped
from dinodeploy.sources.ids import IdList
from dinodeploy.sources.input_file import InputFile
from dinodeploy.sources.source import SourceOptions, Stamp, refuse


class FileSource:
    """Files and URLs, each one image.

    paths: one per id; None where the ids are the paths. missing: why ids have no image, by position.
    """

    def __init__(
        self,
        ids: Sequence[str],
        timeout: float = SourceOptions.timeout,
        paths: Sequence[str] | None = None,
        missing: Mapping[int, str] | None = None,
        skipped: Skipped | None = None,
    ) -> None:
        self.ids = ids
        self.ids_are_locations = paths is None
        self._paths = ids if paths is None else paths
        self._missing = missing or {}
        self.skipped: Skipped = skipped or {}
        self.timeout = timeout

    @property
    def is_plain(self) -> bool:
        """Whether every id is the path of its image."""
        return self.ids_are_locations and not self._missing

    @property
    def origins(self) -> Sequence[str]:
        """The paths, where the ids are others."""
        return () if self.ids_are_locations else self._paths

    def image(self, index: int) -> str | bytes:
        reader = self.reader(index)
        return reader if isinstance(reader, str) else reader()

    def reader(self, index: int) -> str | Callable[[], bytes]:
        if index in self._missing:
            return partial(refuse, f"{self.ids[index]!r}: {self._missing[index]}")
        path = self._paths[index]
        return partial(remote.fetch, path, self.timeout) if remote.is_url(path) else native_path(path)

    def stamp(self, index: int) -> Stamp:
        path = self._paths[index]
        if index in self._missing or remote.is_url(path):
            return Stamp()
        try:
            status = os.stat(native_path(path))  # noqa: PTH116  a third of the time of Path.stat
        except (OSError, ValueError):
            return Stamp()
        return Stamp(status.st_size, status.st_mtime_ns)

    def close(self) -> None: ...


def open_file(file: InputFile, options: SourceOptions) -> list[FileSource]:
    """The images that a list names. Raises MisuseError where it cannot be read."""
    try:
        with file.open() as stream:
            return [_listed(stream, file.beside, options)]
    except (OSError, ValueError) as error:
        raise MisuseError(
            f"{file.name!r} cannot be read: {reason_of(error)}; wanted a list of paths"
        ) from error


def open_stdin(options: SourceOptions) -> FileSource:
    """The images that standard input names."""
    if sys.stdin is None:
        raise MisuseError("standard input is closed; wanted a list of paths, one per line")
    try:
        return _listed(sys.stdin.buffer, str, options)
    except (OSError, ValueError) as error:
        raise MisuseError(
            f"standard input cannot be read: {reason_of(error)}; wanted a list of paths"
        ) from error


def _listed(stream: BinaryIO, beside: Callable[[str], str], options: SourceOptions) -> FileSource:
    return FileSource(IdList(_paths(open_text(stream), beside)), options.timeout)


def _paths(lines: Iterable[str], beside: Callable[[str], str]) -> Iterator[str]:
    schemes: set[str] = set()
    for number, line in enumerate(lines):
        path = line.rstrip("\r\n")
        if "\0" in path:
            raise MisuseError(f"line {number + 1} of the list is not text; wanted one path per line")
        if path.strip() and not path.startswith("#"):
            yield resolve(path, beside, schemes)


def resolve(text: str, beside: Callable[[str], str], schemes: set[str]) -> str:
    """The path or URL that a line or cell names. beside: starts a relative path. schemes: of URLs so far."""
    path = from_file_url(text.strip())
    if path is not None:
        return beside(path)
    if remote.is_url(text.strip()):
        return remote.require(text.strip(), schemes)
    return beside(as_written(text, lambda one: os.path.lexists(native_path(beside(one)))))
