"""Tar files as webdataset lays them out, read in place.

    shard-000.tar/n01/0001.jpg      the id of member n01/0001.jpg

The headers are read once; from then on a picture is one read at its offset. Of a file that is cut off or
damaged what is whole is kept, and one more id, shard-000.tar#rest, says where the rest was lost. A name that
occurs again gets a number: 0001.jpg#2. Compressed archives cannot be read in place and are refused.
"""

from __future__ import annotations

import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from dinodeploy.errors import ImageError, MisuseError, reason_of
from dinodeploy.images.paths import is_wanted_member
from dinodeploy.sources.ids import PackedIds
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.place import Place, Unreadable

if TYPE_CHECKING:
    from dinodeploy.sources import Source

_BLOCK = 512  # bytes of a header; contents are padded to a multiple (POSIX.1-2008, pax)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


class TarSource:
    """The pictures of one archive, by offset and size."""

    ids_are_places = True

    def __init__(self, place: Place, ids: PackedIds, offsets: array[int], sizes: array[int]) -> None:
        self.ids: Sequence[str] = ids
        self._place = place
        self._offsets = offsets
        self._sizes = sizes

    def picture(self, index: int) -> bytes:
        try:
            return self._place.read(self._offsets[index], self._sizes[index])
        except OSError as error:
            raise ImageError(f"{self.ids[index]!r}: cannot be read: {reason_of(error)}") from error

    def close(self) -> None: ...


def open_place(place: Place, options: SourceOptions) -> list[Source]:
    """The pictures of an archive, and what it lost. Raises MisuseError for a compressed one."""
    ids, offsets, sizes = PackedIds(), array("Q"), array("Q")
    lost = ""
    try:
        with place.open() as file:
            _refuse_compressed(file, place.name)
            end = place.size()
            for name, offset, size in _pictures(file):
                if offset + size > end:
                    raise OSError(f"{name!r} ends at byte {offset + size}, the file at byte {end}")
                ids.append(f"{place.name}/{name}")
                offsets.append(offset)
                sizes.append(size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        lost = reason_of(error)
    whole = TarSource(place, ids, offsets, sizes)
    if not lost:
        return [whole]
    return [whole, Unreadable(f"{place.name}#rest", f"lost after {len(ids)} pictures: {lost}")]


def _refuse_compressed(file: BinaryIO, name: str) -> None:
    start = file.read(2)
    file.seek(0)
    if start in _COMPRESSED:
        raise MisuseError(
            f"{name!r} is compressed ({_COMPRESSED[start]}), so its pictures cannot be read in place; "
            "unpack it to a plain .tar"
        )


def _pictures(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of every picture. Raises OSError or TarError where the archive breaks off."""
    seen: Counter[str] = Counter()
    with tarfile.open(fileobj=file, mode="r:", errorlevel=1) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep a kilobyte for each
            name = member.name.removeprefix("./")
            if member.isreg() and not member.issparse() and is_wanted_member(name):
                seen[name] += 1
                again = f"#{seen[name]}" if seen[name] > 1 else ""
                yield name + again, member.offset_data, member.size
        _check_end(file, archive.offset)


def _check_end(file: BinaryIO, offset: int) -> None:
    """An archive ends in zeros or just ends; tarfile takes a damaged header for the end as well."""
    file.seek(offset)
    block = file.read(_BLOCK)
    if block.strip(b"\0"):
        raise OSError(f"no header at byte {offset}, where one was wanted")
