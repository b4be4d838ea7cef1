"""Zip files, read in place: photos.zip/cats/1.jpg is the id of member cats/1.jpg.

Links lead to the member that they name. Of a file whose end is missing the whole members are read, and one
more id, photos.zip#rest, reports where the rest was lost.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from threading import Lock
from typing import Any

from dinodeploy.errors import ImageError, reason_of
from dinodeploy.sources.archives.links import Link, LinkError, absent, follow, plain_name
from dinodeploy.sources.archives.zip_repair import Repaired
from dinodeploy.sources.folders import Skipped, count_skipped, is_wanted_member
from dinodeploy.sources.ids import IdList
from dinodeploy.sources.input_file import InputFile, Unreadable, stamp_of_file
from dinodeploy.sources.source import Source, SourceOptions, Stamp

MAX_MEMBER_BYTES = 1 << 30  # of one image, unpacked: a small file may promise any size
_LONGEST_TARGET = 4096  # of a link: PATH_MAX of Linux
_UNIX = 3  # as `create_system`: the attributes are those of Unix
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
        refused: dict[int, str],
    ) -> None:
        self.ids = ids
        self._file = file
        self._members = members  # positions in the archive's directory
        self._sizes = sizes  # unpacked
        self._refused = refused  # why there is no image
        self.skipped: Skipped = {file.name: skipped} if skipped else {}
        self._mtime_ns = stamp_of_file(file).mtime_ns
        self._archive: Any = None
        self._stack = ExitStack()
        self._lock = Lock()

    def image(self, index: int) -> bytes:
        if index in self._refused:
            raise ImageError(f"{self.ids[index]!r}: {self._refused[index]}")
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
    """The images of an archive, and its unreadable rest; repeated names get a number."""
    try:
        return [_source(file)]
    except _DAMAGE as error:
        reason = f"cannot be read as a zip file: {reason_of(error)}"
    try:
        repaired = Repaired(file)
        if repaired.members:
            source = _source(repaired)
            rest = Unreadable(f"{file.name}#rest", f"lost after {repaired.members} members: {reason}")
            return [source, rest] if len(source.ids) else [rest]
    except _DAMAGE:
        pass
    return [Unreadable(file.name, reason)]


def _source(file: InputFile) -> ZipSource:
    """The images of an archive. Raises as zipfile does."""
    ids, members, sizes = IdList(), array("Q"), array("Q")
    seen: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    links: dict[str, Link] = {}
    linked: dict[int, str] = {}
    positions: dict[str, int] = {}
    with ExitStack() as stack:
        archive = _open(file, stack)
        listed = archive.infolist()
        names = [member.filename.replace("\\", "/") for member in listed]  # some writers of Windows
        has_links = any(map(_is_link, listed))
        for position, (member, name) in enumerate(zip(listed, names, strict=True)):
            if has_links:
                positions[plain_name(name)] = position
                if _is_link(member):
                    links[plain_name(name)] = Link(_target(archive, member))
            if member.is_dir() or name.endswith("/"):
                continue
            if not is_wanted_member(name):
                count_skipped(name, skipped)
                continue
            seen[name] += 1
            again = f"#{seen[name]}" if seen[name] > 1 else ""
            if _is_link(member):
                linked[len(ids)] = plain_name(name)
            ids.append(f"{file.name}/{name}{again}")
            members.append(position)
            sizes.append(member.file_size)
    refused = {}
    for index, name in linked.items():
        try:
            target = follow(name, links)
        except LinkError as error:
            refused[index] = f"a link to {links[name].target!r}, which {error}"
            continue
        if target in positions:
            members[index] = positions[target]
            sizes[index] = listed[members[index]].file_size
        else:
            refused[index] = f"a link to {links[name].target!r}, which {absent(target)}"
    return ZipSource(file, ids, members, sizes, skipped, refused)


def _is_link(member: zipfile.ZipInfo) -> bool:
    return member.create_system == _UNIX and stat.S_ISLNK(member.external_attr >> 16)


def _target(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    """Where a symbolic link leads: its content. An empty text for one that cannot be read."""
    if member.file_size > _LONGEST_TARGET:
        return ""
    try:
        return archive.read(member).decode("utf-8", "surrogateescape")
    except _DAMAGE:
        return ""


def _open(file: InputFile, stack: ExitStack) -> zipfile.ZipFile:
    return stack.enter_context(zipfile.ZipFile(stack.enter_context(file.open())))
