"""Read zip files whose end is missing: find the whole members by their own headers, and write a directory.

A zip file is found through the directory at its end (PKWARE's APPNOTE.TXT, 4.3.6), so a cut one cannot be
opened. But each member has a header too (4.3.7), which says where the next one begins.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from dinodeploy.sources.input_file import InputFile, buffered

_LOCAL = struct.Struct("<4s5H3L2H")  # APPNOTE 4.3.7
_ENTRY = struct.Struct("<4s6H3L5H2L")  # APPNOTE 4.3.12
_END = struct.Struct("<4s4H2LH")  # APPNOTE 4.3.16
_END_64 = struct.Struct("<4sQ2H2L4Q")  # APPNOTE 4.3.14
_LOCATOR_64 = struct.Struct("<4sLQL")  # APPNOTE 4.3.15
_DESCRIBED = 1 << 3  # flag: sizes follow the content
_DEFLATED = 8
_MANY, _LARGE = 0xFFFF, 0xFFFFFFFF  # in their place, zip64's fields count
_CHUNK = 1 << 18


@dataclass(frozen=True)
class _Found:
    """One whole member: its header, and where it is."""

    fields: tuple[int, ...]  # version, flags, method, time, date
    name: bytes
    crc: int
    packed: int
    size: int
    offset: int
    end: int


class Repaired:
    """A zip file with another end. members: how many whole members it has."""

    def __init__(self, file: InputFile) -> None:
        self.name = file.name
        self._file = file
        with file.open() as stream:
            found = _members(stream, file.size())
        self.members = len(found)
        self._cut = found[-1].end if found else 0
        self._tail = _directory(found, self._cut)

    def size(self) -> int:
        return self._cut + len(self._tail)

    def mtime_ns(self) -> int | None:
        return self._file.mtime_ns()

    def read(self, start: int, size: int) -> bytes:
        own = max(0, min(size, self._cut - start))
        head = self._file.read(start, own) if own else b""
        at = max(0, start - self._cut)
        return head + self._tail[at : at + size - own]

    def open(self) -> BinaryIO:
        return buffered(self)

    def beside(self, path: str) -> str:
        return self._file.beside(path)


def _members(stream: BinaryIO, end: int) -> list[_Found]:
    """The whole members from the start of a file on, until one is cut off or its header is damaged."""
    found: list[_Found] = []
    at = 0
    while (member := _member(stream, at, end)) is not None:
        found.append(member)
        at = member.end
    return found


def _member(stream: BinaryIO, at: int, end: int) -> _Found | None:
    stream.seek(at)
    header = stream.read(_LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
        return None
    _, version, flags, method, time, date, crc, packed, size, name_size, extra_size = _LOCAL.unpack(header)
    name, extra = stream.read(name_size), stream.read(extra_size)
    start = at + _LOCAL.size + name_size + extra_size
    if packed == _LARGE or size == _LARGE:
        sizes = _sizes_64(extra)
        if sizes is None:
            return None
        size, packed = sizes
    stop = start + packed
    if flags & _DESCRIBED and not packed:
        measured = _measure(stream, start, end) if method == _DEFLATED else None
        if measured is None:
            return None
        crc, packed, size = measured
        stop = start + packed
        stop += _descriptor_size(stream, stop, crc)
    if stop > end or len(name) < name_size or size > _LARGE - 1 or packed > _LARGE - 1:
        return None
    return _Found((version, flags & ~_DESCRIBED, method, time, date), name, crc, packed, size, at, stop)


def _sizes_64(extra: bytes) -> tuple[int, int] | None:
    """The sizes, unpacked and packed, in the extra field of zip64 (APPNOTE 4.5.3)."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1 and length >= 16 and len(extra) >= 20:
            size, packed = struct.unpack_from("<2Q", extra, 4)
            return int(size), int(packed)
        extra = extra[4 + length :]
    return None


def _measure(stream: BinaryIO, start: int, end: int) -> tuple[int, int, int] | None:
    """CRC, packed and unpacked size of deflated content of unknown length; None where it is cut off."""
    stream.seek(start)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    crc = size = read = 0
    while not inflate.eof:
        chunk = inflate.unconsumed_tail or stream.read(_CHUNK)
        if not chunk:
            return None
        if not inflate.unconsumed_tail:
            read += len(chunk)
        try:
            content = inflate.decompress(chunk, 1 << 20)
        except zlib.error:
            return None
        crc = zlib.crc32(content, crc)
        size += len(content)
    return crc, read - len(inflate.unused_data), size


def _descriptor_size(stream: BinaryIO, at: int, crc: int) -> int:
    """Bytes of the data descriptor after the content (APPNOTE 4.3.9), which has four variants."""
    stream.seek(at)
    data = stream.read(28)
    mark = 4 if data[:4] == b"PK\7\x08" else 0
    if data[mark : mark + 4] != struct.pack("<L", crc):
        return 0
    for size in (mark + 12, mark + 20):
        if data[size : size + 2] in (b"PK", b""):
            return size
    return mark + 12


def _directory(found: list[_Found], start: int) -> bytes:
    """The directory of the members, to stand at byte `start`."""
    parts = []
    for one in found:
        far = struct.pack("<2HQ", 1, 8, one.offset) if one.offset >= _LARGE else b""
        version, *rest = one.fields
        parts.append(
            _ENTRY.pack(
                b"PK\1\2", version, version, *rest, one.crc, one.packed, one.size, len(one.name), len(far),
                0, 0, 0, 0, min(one.offset, _LARGE)
            )
            + one.name
            + far
        )  # fmt: skip
    entries = b"".join(parts)
    count, size = len(found), len(entries)
    if count >= _MANY or start >= _LARGE:
        end_64 = _END_64.pack(b"PK\6\6", _END_64.size - 12, 45, 45, 0, 0, count, count, size, start)
        entries += end_64 + _LOCATOR_64.pack(b"PK\6\7", 0, start + size, 1)
    few, near = min(count, _MANY), min(start, _LARGE)
    return entries + _END.pack(b"PK\5\6", 0, 0, few, few, min(size, _LARGE), near, 0)
