"""A file that holds or names many images, local or remote, read in byte ranges from several threads."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from dinodeploy.files.paths import is_absolute, native_path, portable_path
from dinodeploy.files.regular import open_regular
from dinodeploy.sources.source import Stamp, refuse

_READ_AHEAD = 1 << 20  # bytes per remote read; headers of archives are small


class InputFile(Protocol):
    """How archives, tables, lists and videos are read."""

    name: str  # a path or a URL, with which ids begin

    def size(self) -> int:
        """Size in bytes. Raises OSError, as the other methods do."""
        ...

    def mtime_ns(self) -> int | None:
        """When it was modified, in nanoseconds since 1970; None where unknown."""
        ...

    def read(self, start: int, size: int) -> bytes:
        """Exactly `size` bytes from `start`. Thread-safe."""
        ...

    def open(self) -> BinaryIO:
        """A seekable stream, for one thread."""
        ...

    def beside(self, path: str) -> str:
        """Resolve `path`, found in this file: relative paths start at the file's folder."""
        ...


class LocalFile:
    """A file on disk."""

    def __init__(self, path: str) -> None:
        self.name = path
        self.path = native_path(path)
        self._folder = path[: path.rfind("/") + 1]

    def size(self) -> int:
        return Path(self.path).stat().st_size

    def mtime_ns(self) -> int | None:
        return Path(self.path).stat().st_mtime_ns

    def read(self, start: int, size: int) -> bytes:
        with self.open() as stream:
            stream.seek(start)
            data = stream.read(size)
        if len(data) != size:
            raise OSError(f"got {len(data)} bytes at byte {start}, wanted {size}: the file has changed")
        return data

    def open(self) -> BinaryIO:
        return open_regular(self.path)

    def beside(self, path: str) -> str:
        joined = portable_path(path) if is_absolute(path) else self._folder + portable_path(path)
        unusual = "//" in joined or "./" in joined or joined.endswith("/")
        return Path(joined).as_posix() if unusual else joined  # Path takes ten times as long


class _Stream(io.RawIOBase):
    """An input file as a raw stream."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._size = file.size()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._at))
        if wanted:
            buffer[:wanted] = self._file.read(self._at, wanted)
            self._at += wanted
        return wanted


def stamp_of_file(file: InputFile) -> Stamp:
    """The size and modification time of the file as a whole; unknown where it cannot be asked."""
    try:
        modified = file.mtime_ns()
        return Stamp(file.size(), modified) if modified is not None else Stamp()
    except OSError:
        return Stamp()


def buffered(file: InputFile) -> BinaryIO:
    """A stream over byte-range reads, with read-ahead."""
    return io.BufferedReader(_Stream(file), _READ_AHEAD)  # type: ignore[type-var]


class Unreadable:
    """The unreadable part of an input: one id without an image, so that `embed` reports the reason."""

    ids_are_locations = True

    def __init__(self, id_: str, reason: str, *, is_folder: bool = False) -> None:
        self.ids: Sequence[str] = [id_]
        self.is_folder = is_folder  # that cannot be listed
        self._reason = " ".join(reason.split())[:300]

    def image(self, index: int) -> bytes:
        return self.reader(index)()

    def reader(self, index: int) -> Callable[[], bytes]:
        return partial(refuse, f"{self.ids[index]!r}: {self._reason}")

    def close(self) -> None: ...
