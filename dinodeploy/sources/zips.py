"""Zip files, read in place: photos.zip/cats/1.jpg is the id of member cats/1.jpg."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from threading import Lock
from typing import TYPE_CHECKING, Any

from dinodeploy.errors import ImageError, reason_of
from dinodeploy.images.paths import is_wanted_member
from dinodeploy.sources.ids import PackedIds
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.place import Place, Unreadable

if TYPE_CHECKING:
    from dinodeploy.sources import Source

_LARGEST = 1 << 30  # bytes of one picture, unpacked: a small file may promise any number
# What zipfile raises: RuntimeError for a password, NotImplementedError for a method it does not know.
_DAMAGE = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, zlib.error)


class ZipSource:
    """The pictures of one archive. One thread at a time unpacks; decoding is not its business."""

    ids_are_places = True

    def __init__(self, place: Place, ids: PackedIds, members: Sequence[int]) -> None:
        self.ids: Sequence[str] = ids
        self._place = place
        self._members = members  # positions in the archive's directory
        self._archive: Any = None
        self._stack = ExitStack()
        self._lock = Lock()

    def picture(self, index: int) -> bytes:
        try:
            with self._lock:
                if self._archive is None:
                    self._archive = _open(self._place, self._stack)
                member = self._archive.infolist()[self._members[index]]
                if member.file_size > _LARGEST:
                    raise ValueError(f"{member.file_size} bytes, wanted at most {_LARGEST}")
                data: bytes = self._archive.read(member)
                return data
        except (*_DAMAGE, IndexError) as error:
            raise ImageError(f"{self.ids[index]!r}: cannot be read: {reason_of(error)}") from error

    def rest(self) -> None:
        """Let go of the file and of its directory; the next picture opens it anew."""
        with self._lock:
            self._archive = None
            self._stack.close()

    def close(self) -> None:
        self.rest()


def open_place(place: Place, options: SourceOptions) -> list[Source]:
    """The pictures of an archive; names that occur again get a number."""
    ids, members = PackedIds(), []
    seen: Counter[str] = Counter()
    try:
        with ExitStack() as stack:
            for position, member in enumerate(_open(place, stack).infolist()):
                if not member.is_dir() and is_wanted_member(member.filename):
                    seen[member.filename] += 1
                    again = f"#{seen[member.filename]}" if seen[member.filename] > 1 else ""
                    ids.append(f"{place.name}/{member.filename}{again}")
                    members.append(position)
    except _DAMAGE as error:
        return [Unreadable(place.name, f"cannot be read as a zip file: {reason_of(error)}")]
    return [ZipSource(place, ids, members)]


def _open(place: Place, stack: ExitStack) -> zipfile.ZipFile:
    return stack.enter_context(zipfile.ZipFile(stack.enter_context(place.open())))
