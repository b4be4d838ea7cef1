"""Tar files in the layout of webdataset, read in place; compressed ones are read forwards.

    shard-000.tar/n01/0001.jpg      the id of member n01/0001.jpg

The headers are read once; each image is then one read at its offset. The readable part of a truncated or
damaged file is kept, and one more id, shard-000.tar#rest, reports where the rest was lost. Repeated names
get a number: 0001.jpg#2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from dinodeploy.errors import ImageError, reason_of
from dinodeploy.sources.archives.compressed import CompressedFile, compression_of
from dinodeploy.sources.archives.tar_members import Members, Part, find_members
from dinodeploy.sources.folders import Skipped
from dinodeploy.sources.input_file import InputFile, Unreadable, stamp_of_file
from dinodeploy.sources.source import Source, SourceOptions, Stamp, refuse

MAX_SPARSE_BYTES = 1 << 30  # of one image with its holes: a small archive may promise any size


class TarSource:
    """The images of one archive, by offset and size."""

    ids_are_locations = True

    def __init__(self, file: InputFile, members: Members) -> None:
        self.ids = members.ids
        self.skipped: Skipped = {file.name: members.skipped} if members.skipped else {}
        self._file = file
        self._members = members
        self._mtime_ns = stamp_of_file(file).mtime_ns

    def stamp(self, index: int) -> Stamp:
        return Stamp(self._members.sizes[index], self._mtime_ns)

    def image(self, index: int) -> bytes:
        return self._reader(index)()

    @property
    def reader(self) -> Callable[[int], Callable[[], bytes]] | None:
        """See `Source`: a compressed archive is read forwards, by this process only."""
        return None if isinstance(self._file, CompressedFile) else self._reader

    def _reader(self, index: int) -> Callable[[], bytes]:
        position = range(len(self.ids))[index]
        id_, size = self.ids[position], self._members.sizes[position]
        if position in self._members.refused:
            return partial(refuse, f"{id_!r}: {self._members.refused[position]}")
        parts = self._members.sparse.get(position)
        if parts is None:
            parts = ((0, self._members.offsets[position], size),)
        return partial(read_member, self._file, id_, size, parts)

    @property
    def last_progress(self) -> float:
        """See `Source`."""
        return self._file.last_progress if isinstance(self._file, CompressedFile) else 0.0

    @property
    def is_open(self) -> bool:
        return isinstance(self._file, CompressedFile) and self._file.is_open

    def release(self) -> None:
        """Close a compressed archive; the next image opens it again."""
        if isinstance(self._file, CompressedFile):
            self._file.release()

    close = release


def read_member(file: InputFile, id_: str, size: int, parts: Sequence[Part]) -> bytes:
    """A member of `size` bytes. parts: where each goes, where it lies in the file, and its length.

    Raises ImageError.
    """
    try:
        if len(parts) == 1 and parts[0][0] == 0 and parts[0][2] == size:
            return file.read(parts[0][1], size)
        if size > MAX_SPARSE_BYTES:
            raise OSError(f"{size} bytes with its holes, wanted at most {MAX_SPARSE_BYTES}")
        content = bytearray(size)
        for start, offset, length in parts:
            content[start : start + length] = file.read(offset, length)
        return bytes(content[:size])
    except OSError as error:
        raise ImageError(f"{id_!r}: cannot be read: {reason_of(error)}") from error


def open_file(file: InputFile, options: SourceOptions) -> list[Source]:
    """The images of an archive, and its unreadable rest. Raises UnavailableError for a missing package."""
    try:
        with file.open() as stream:
            kind = compression_of(stream.read(8))
        packed = CompressedFile(file, kind) if kind else None
        with (packed or file).open() as stream:
            members = find_members(stream, None if packed else file.size(), file.name)
        if packed is not None:
            packed.expect(_contents(members))
    except OSError as error:
        packed, members = None, Members(lost=reason_of(error))
    whole = TarSource(packed or file, members)
    if not members.lost:
        return [whole]
    return [whole, Unreadable(f"{file.name}#rest", f"lost after {len(members.ids)} images: {members.lost}")]


def _contents(members: Members) -> Iterator[tuple[int, int]]:
    """Start and size of everything that images are read from."""
    for position in range(len(members.ids)):
        if position in members.sparse:
            yield from ((start, size) for _, start, size in members.sparse[position])
        elif position not in members.refused:
            yield members.offsets[position], members.sizes[position]
