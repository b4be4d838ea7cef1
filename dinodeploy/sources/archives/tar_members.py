"""Find the images in a tar file: where each begins, and why some cannot be read.

Hard and symbolic links lead to the member that they name, wherever it is in the archive; those that leave it
are refused. Several archives in one file, as `cat a.tar b.tar` makes them, are read one after the other. Of
a damaged file everything before the damage is found.
"""

from __future__ import annotations

import tarfile
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from dinodeploy.errors import reason_of
from dinodeploy.sources.archives.links import Link, LinkError, absent, follow, plain_name
from dinodeploy.sources.folders import count_skipped, is_wanted_member
from dinodeploy.sources.ids import IdList

_BLOCK = 512  # bytes of a header; contents are padded to a multiple (POSIX.1-2008, pax)
_AHEAD = 1 << 20  # bytes of padding read at a time
_CONTINUED = b"M"  # GNU: the rest of a file that begins in another volume
_NO_FILES = (
    tarfile.DIRTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
)

Part = tuple[int, int, int]  # of a sparse file: position in it, offset in the archive, bytes


@dataclass
class Members:
    """The images of an archive. lost: why the end is missing, or an empty string."""

    ids: IdList = field(default_factory=IdList)
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    sparse: dict[int, tuple[Part, ...]] = field(default_factory=dict)  # by position
    refused: dict[int, str] = field(default_factory=dict)  # why there is no image, by position
    skipped: Counter[str] = field(default_factory=Counter)
    lost: str = ""

    def add(self, id_: str, offset: int = 0, size: int = 0) -> int:
        """The position of a new image."""
        self.ids.append(id_)
        self.offsets.append(offset)
        self.sizes.append(size)
        return len(self.offsets) - 1


def find_members(stream: BinaryIO, end: int | None, where: str) -> Members:
    """The images of the archive `where` in `stream`, which has `end` bytes (None: not known)."""
    found = Members()
    seen: Counter[str] = Counter()
    links: dict[str, Link] = {}
    linked: list[
        tuple[int, str, int]
    ] = []  # images that are links: position, plain name, offset of the header
    try:
        for member in _headers(stream, end):
            name = member.name.removeprefix("./")
            is_link = member.type in (tarfile.LNKTYPE, tarfile.SYMTYPE)
            wanted = is_wanted_member(name) and not member.isdir()
            if not wanted and not is_link:
                if not member.isdir():
                    count_skipped(name, found.skipped)
                continue
            if wanted:
                seen[name] += 1
                again = f"#{seen[name]}" if seen[name] > 1 else ""
                position = found.add(f"{where}/{name}{again}", member.offset_data, member.size)
                if member.issparse():
                    found.sparse[position] = _parts(member)
                elif not is_link and (why := _why_no_file(member)):
                    found.refused[position] = why
            if is_link:
                found_at = _remember(links, member, name)
                if wanted:
                    linked.append((position, found_at, member.offset))
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        found.lost = reason_of(error)
    if linked:
        _resolve(found, links, linked, stream, end)
    return found


def _remember(links: dict[str, Link], member: tarfile.TarInfo, name: str) -> str:
    """Enter a link under its plain name, and return that."""
    plain = plain_name(name)
    links[plain] = Link(member.linkname, member.type == tarfile.LNKTYPE)
    return plain


def _why_no_file(member: tarfile.TarInfo) -> str:
    if member.type == _CONTINUED:
        return "the rest of a file that begins in another volume"
    return "not a regular file" if member.type in _NO_FILES else ""


def _parts(member: tarfile.TarInfo) -> tuple[Part, ...]:
    at = member.offset_data
    parts = []
    extents: Any = member.sparse or ()  # pairs (position, size); typed as one number in some versions
    for position, size in extents:
        if size:
            parts.append((position, at, size))
            at += size
    return tuple(parts)


def _headers(stream: BinaryIO, end: int | None) -> Iterator[tarfile.TarInfo]:
    """The headers of all archives in a file. Raises OSError or TarError where they break off."""
    start: int | None = 0
    while start is not None:
        stream.seek(start)
        with tarfile.open(
            fileobj=stream, mode="r:", errorlevel=1, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            before = -1
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else a kilobyte per member is kept
                if member.size < 0 or archive.offset <= before:  # a negative size would lead back
                    raise OSError(f"a damaged header at byte {member.offset}")
                before = archive.offset
                _check_size(member, stream, end)
                yield member
            start = _next_archive(stream, archive.offset)


def _check_size(member: tarfile.TarInfo, stream: BinaryIO, end: int | None) -> None:
    """Raise OSError for a member whose content is not whole."""
    stored = sum(part[2] for part in _parts(member)) if member.issparse() else member.size
    ends = member.offset_data + stored
    if member.type in _NO_FILES or not stored:
        return
    if end is None:
        stream.seek(ends - 1)
        whole = len(stream.read(1)) == 1
    else:
        whole = ends <= end
    if not whole:
        raise OSError(
            f"{member.name!r} ends at byte {ends}, the file {'before' if end is None else f'at byte {end}'}"
        )


def _next_archive(stream: BinaryIO, offset: int) -> int | None:
    """Where the next archive of the file begins; None at its end.

    An archive ends with zeros or at the end of the file; tarfile also stops at a damaged header.
    """
    stream.seek(offset)
    first = stream.read(_BLOCK)
    if first.strip(b"\0"):
        raise OSError(f"no header at byte {offset}, where one was wanted")
    at = offset + len(first)
    while ahead := stream.read(_AHEAD):
        rest = ahead.lstrip(b"\0")
        if rest:
            return at + (len(ahead) - len(rest)) // _BLOCK * _BLOCK
        at += len(ahead)
    return None


def _resolve(
    found: Members,
    links: dict[str, Link],
    linked: list[tuple[int, str, int]],
    stream: BinaryIO,
    end: int | None,
) -> None:
    """Give every link the place of its target; what leads nowhere is refused."""
    targets: dict[int, str] = {}
    for position, name, _ in linked:
        try:
            targets[position] = follow(name, links)
        except LinkError as error:
            found.refused[position] = f"a link to {links[name].target!r}, which {error}"
    wanted = {name: ([], []) for name in targets.values()}  # type: dict[str, tuple[list[int], list[tarfile.TarInfo]]]
    try:
        for member in _headers(stream, end):
            if member.type not in _NO_FILES and not _why_no_file(member):
                entry = wanted.get(member.name) or wanted.get(plain_name(member.name))
                if entry is not None:
                    entry[0].append(member.offset)
                    entry[1].append(member)
    except (tarfile.TarError, OSError, EOFError, ValueError):
        pass  # the first reading has reported it
    for position, name, offset in linked:
        if position not in targets:
            continue
        offsets, members = wanted[targets[position]]
        if not members:
            found.refused[position] = f"a link to {links[name].target!r}, which {absent(targets[position])}"
            continue
        # a hard link is another name of the last such file before it, a symbolic link finds the last of all
        chosen = members[max(0, bisect_left(offsets, offset) - 1) if links[name].is_hard else -1]
        found.offsets[position], found.sizes[position] = chosen.offset_data, chosen.size
        if chosen.issparse():
            found.sparse[position] = _parts(chosen)
