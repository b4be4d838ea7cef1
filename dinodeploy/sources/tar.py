"""Tar archives, webdataset's shards among them, read in place: an id is `shard.tar/member.jpg`.

The headers are read once, on opening; afterwards any picture is one read away, here or behind a URL. Of an
archive that breaks off, what is whole is kept, and the rest is one picture that cannot be read.
"""

from __future__ import annotations

import tarfile
from array import array
from collections.abc import Iterator, Sequence
from typing import cast

from dinodeploy.errors import ImageError, first_line
from dinodeploy.listing import SUFFIXES
from dinodeploy.sources.ids import PackedIds
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.storage import Storage, StorageFile, open_storage

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarSource:
    """The pictures of one archive, in its order."""

    def __init__(self, name: str, options: SourceOptions) -> None:
        self._name = name
        self._starts = array("Q")
        self._sizes = array("Q")
        self._problem = ""
        self._storage: Storage | None = None
        self.ids: Sequence[str] = PackedIds(self._index(options))

    def picture(self, index: int) -> bytes:
        if index >= len(self._starts):
            raise ImageError(self._problem)
        assert self._storage is not None, "there are pictures, so there is a file"
        start, size = self._starts[index], self._sizes[index]
        content = self._storage.read(start, start + size)
        if len(content) < size:
            raise ImageError(f"{self.ids[index]!r}: the archive has become shorter since it was listed")
        return content

    def close(self) -> None:
        if self._storage is not None:
            self._storage.close()

    def _index(self, options: SourceOptions) -> Iterator[str]:
        seen: set[int] = set()
        try:
            self._storage = open_storage(self._name, options.timeout)
            for member in _members(self._storage):
                if not (member.isreg() and _is_picture(member.name)):
                    continue
                name = member.name.removeprefix("./")
                again = hash(name) in seen  # tar allows a name twice; ids are told apart by place
                seen.add(hash(name))
                yield f"{self._name}/{name}" + (f"@{member.offset_data}" if again else "")
                self._starts.append(member.offset_data)
                self._sizes.append(member.size)
        except (tarfile.TarError, OSError, ValueError) as error:
            where = f"'{self._name}'"
            self._problem = f"{where} cannot be read as a tar archive: {first_line(error)}"
            yield f"{self._name}#rest"


def _members(storage: Storage) -> Iterator[tarfile.TarInfo]:
    """Headers in order. Raises TarError with the byte from which on nothing can be read."""
    head = storage.read(0, 6)
    for magic, kind in _COMPRESSED.items():
        if head.startswith(magic):
            raise tarfile.ReadError(f"it is compressed by {kind}; unpack it to a plain .tar first")
    end = 0  # of the last member that is whole
    with tarfile.open(fileobj=cast("tarfile._Fileobj", StorageFile(storage)), mode="r:") as archive:
        try:
            for member in archive:
                if member.offset_data + member.size > storage.size:
                    raise tarfile.ReadError(f"{member.name!r} breaks off")
                end = member.offset_data + member.size
                yield member
                archive.members = []  # type: ignore[attr-defined]  # it would keep every header
        except tarfile.TarError as error:
            raise tarfile.ReadError(f"from byte {end} on: {first_line(error)}") from error
    end += -end % tarfile.BLOCKSIZE
    if any(storage.read(end, end + tarfile.BLOCKSIZE)):  # tarfile takes half a header for the end
        raise tarfile.ReadError(f"from byte {end} on: no header")


def _is_picture(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith(SUFFIXES) and not base.startswith(".")
