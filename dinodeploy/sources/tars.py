"""Tar files in the layout of webdataset, read in place.

    shard-000.tar/n01/0001.jpg      the id of member n01/0001.jpg

The headers are read once; each image is then one read at its offset. The readable part of a truncated or
damaged file is kept, and one more id, shard-000.tar#rest, reports where the rest was lost. Repeated names
get a number: 0001.jpg#2. Compressed archives cannot be read in place and are refused.
"""

from __future__ import annotations

import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from dinodeploy.errors import ImageError, MisuseError, reason_of
from dinodeploy.sources.folders import Skipped, count_skipped, is_wanted_member
from dinodeploy.sources.ids import IdList
from dinodeploy.sources.input_file import InputFile, Unreadable, stamp_of_file
from dinodeploy.sources.source import Source, SourceOptions, Stamp

_BLOCK = 512  # bytes of a header; contents are padded to a multiple (POSIX.1-2008, pax)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


class TarSource:
    """The images of one archive, by offset and size."""

    ids_are_locations = True

    def __init__(
        self, file: InputFile, ids: IdList, offsets: array[int], sizes: array[int], skipped: Counter[str]
    ) -> None:
        self.ids = ids
        self._file = file
        self._offsets = offsets
        self._sizes = sizes
        self.skipped: Skipped = {file.name: skipped} if skipped else {}
        self._mtime_ns = stamp_of_file(file).mtime_ns

    def stamp(self, index: int) -> Stamp:
        return Stamp(self._sizes[index], self._mtime_ns)

    def image(self, index: int) -> bytes:
        try:
            return self._file.read(self._offsets[index], self._sizes[index])
        except OSError as error:
            raise ImageError(f"{self.ids[index]!r}: cannot be read: {reason_of(error)}") from error

    def close(self) -> None: ...


def open_file(file: InputFile, options: SourceOptions) -> list[Source]:
    """The images of an archive, and its unreadable rest. Raises MisuseError for a compressed archive."""
    ids, offsets, sizes = IdList(), array("Q"), array("Q")
    skipped: Counter[str] = Counter()
    lost = ""
    try:
        with file.open() as stream:
            _refuse_compressed(stream, file.name)
            end = file.size()
            for name, offset, size in _images(stream, skipped):
                if offset + size > end:
                    raise OSError(f"{name!r} ends at byte {offset + size}, the file at byte {end}")
                ids.append(f"{file.name}/{name}")
                offsets.append(offset)
                sizes.append(size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        lost = reason_of(error)
    whole = TarSource(file, ids, offsets, sizes, skipped)
    if not lost:
        return [whole]
    return [whole, Unreadable(f"{file.name}#rest", f"lost after {len(ids)} images: {lost}")]


def _refuse_compressed(stream: BinaryIO, name: str) -> None:
    start = stream.read(2)
    stream.seek(0)
    if start in _COMPRESSED:
        raise MisuseError(
            f"{name!r} is compressed ({_COMPRESSED[start]}), so its images cannot be read in place; "
            "unpack it to a plain .tar"
        )


def _images(stream: BinaryIO, skipped: Counter[str]) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of every image. Raises OSError or TarError where the archive breaks off."""
    seen: Counter[str] = Counter()
    with tarfile.open(fileobj=stream, mode="r:", errorlevel=1) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else a kilobyte per member is kept
            name = member.name.removeprefix("./")
            if member.isreg() and not member.issparse() and is_wanted_member(name):
                seen[name] += 1
                again = f"#{seen[name]}" if seen[name] > 1 else ""
                yield name + again, member.offset_data, member.size
            elif not member.isdir():
                count_skipped(name, skipped)
        _check_end(stream, archive.offset)


def _check_end(stream: BinaryIO, offset: int) -> None:
    """An archive ends with zeros or at the end of the file; tarfile also stops at a damaged header."""
    stream.seek(offset)
    block = stream.read(_BLOCK)
    if block.strip(b"\0"):
        raise OSError(f"no header at byte {offset}, where one was wanted")
