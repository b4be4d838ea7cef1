"""A file that holds many pictures, wherever it lies: read in pieces, from several threads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from dinodeploy.errors import ImageError
from dinodeploy.files.regular import open_regular

_AHEAD = 1 << 20  # bytes that are fetched at once from far away; headers of archives are small


class Place(Protocol):
    """What archives, tables and videos are read through."""

    name: str  # a path or a URL: what ids begin with

    def size(self) -> int:
        """In bytes. Raises OSError, as the others do."""
        ...

    def read(self, start: int, size: int) -> bytes:
        """Exactly `size` bytes from `start`. May be called from several threads."""
        ...

    def open(self) -> BinaryIO:
        """A file to seek in, for one thread."""
        ...

    def beside(self, path: str) -> str:
        """What `path`, written in this file, means: relative ones start where the file lies."""
        ...


class DiskPlace:
    """A file here."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._folder = path[: path.rfind("/") + 1]

    def size(self) -> int:
        return Path(self.name).stat().st_size

    def read(self, start: int, size: int) -> bytes:
        with self.open() as file:
            file.seek(start)
            data = file.read(size)
        if len(data) != size:
            raise OSError(f"got {len(data)} bytes from byte {start} on, wanted {size}: the file has changed")
        return data

    def open(self) -> BinaryIO:
        return open_regular(self.name)

    def beside(self, path: str) -> str:
        joined = path if path.startswith("/") else self._folder + path
        odd = "//" in joined or "./" in joined or joined.endswith("/")
        return Path(joined).as_posix() if odd else joined  # Path alone takes ten times as long


class PlaceFile(io.RawIOBase):
    """A place as a file, where it cannot be opened as one."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._size = place.size()
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
            buffer[:wanted] = self._place.read(self._at, wanted)
            self._at += wanted
        return wanted


def buffered(place: Place) -> BinaryIO:
    """A place as a file that fetches ahead."""
    return io.BufferedReader(PlaceFile(place), _AHEAD)  # type: ignore[type-var]


class Unreadable:
    """What could not be read of an input: one picture that is none, so that `embed` tells of it."""

    ids_are_places = True

    def __init__(self, id_: str, reason: str) -> None:
        self.ids: Sequence[str] = [id_]
        self._reason = " ".join(reason.split())[:300]

    def picture(self, index: int) -> bytes:
        raise ImageError(f"{self.ids[index]!r}: {self._reason}")

    def close(self) -> None: ...
