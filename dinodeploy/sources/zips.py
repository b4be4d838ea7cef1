"""Zip files, read in place: photos.zip/cats/1.jpg is the id of member cats/1.jpg."""

from __future__ import annotations

import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from threading import Lock
from typing import Any

from dinodeploy.errors import ImageError, reason_of
from dinodeploy.sources.folders import Skipped, count_skipped, is_wanted_member
from dinodeploy.sources.ids import IdList
from dinodeploy.sources.input_file import InputFile, Unreadable, stamp_of_file
from dinodeploy.sources.source import Source, SourceOptions, Stamp

MAX_MEMBER_BYTES = 1 << 30  # of one image, unpacked: a small file may promise any size
# zipfile raises RuntimeError for a password, NotImplementedError for an unknown compression method.
_DAMAGE = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, zlib.error)


class ZipSource:
    """The images of one archive. One thread at a time unpacks; decoding runs outside the lock."""

    ids_are_locations = True

    def __init__(
        self,
        file: InputFile,
        ids: IdList,
        members: Sequence[int],
        sizes: Sequence[int],
        skipped: Counter[str],
    ) -> None:
        self.ids = ids
        self._file = file
        self._members = members  # positions in the archive's directory
        self._sizes = sizes  # unpacked
        self.skipped: Skipped = {file.name: skipped} if skipped else {}
        self._mtime_ns = stamp_of_file(file).mtime_ns
        self._archive: Any = None
        self._stack = ExitStack()
        self._lock = Lock()

    def image(self, index: int) -> bytes:
        try:
            with self._lock:
                if self._archive is None:
                    self._archive = _open(self._file, self._stack)
                member = self._archive.infolist()[self._members[index]]
                if member.file_size > MAX_MEMBER_BYTES:
                    raise ValueError(f"{member.file_size} bytes, wanted at most {MAX_MEMBER_BYTES}")
                data: bytes = self._archive.read(member)
                return data
        except (*_DAMAGE, IndexError) as error:
            raise ImageError(f"{self.ids[index]!r}: cannot be read: {reason_of(error)}") from error

    def stamp(self, index: int) -> Stamp:
        return Stamp(self._sizes[index], self._mtime_ns)

    @property
    def is_open(self) -> bool:
        return self._archive is not None

    def release(self) -> None:
        """Close the file and drop its directory; the next image opens it again."""
        with self._lock:
            self._archive = None
            self._stack.close()

    close = release


def open_file(file: InputFile, options: SourceOptions) -> list[Source]:
    """The images of an archive; repeated names get a number."""
    ids, members, sizes = IdList(), array("Q"), array("Q")
    seen: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    try:
        with ExitStack() as stack:
            for position, member in enumerate(_open(file, stack).infolist()):
                if member.is_dir():
                    continue
                if not is_wanted_member(member.filename):
                    count_skipped(member.filename, skipped)
                else:
                    seen[member.filename] += 1
                    again = f"#{seen[member.filename]}" if seen[member.filename] > 1 else ""
                    ids.append(f"{file.name}/{member.filename}{again}")
                    members.append(position)
                    sizes.append(member.file_size)
    except _DAMAGE as error:
        return [Unreadable(file.name, f"cannot be read as a zip file: {reason_of(error)}")]
    return [ZipSource(file, ids, members, sizes, skipped)]


def _open(file: InputFile, stack: ExitStack) -> zipfile.ZipFile:
    return stack.enter_context(zipfile.ZipFile(stack.enter_context(file.open())))
