"""Tar shards in webdataset's layout, read in place: members that share a name up to its first dot are one
sample (`0001.jpg`, `0001.cls`).

The headers are read once, on opening; afterwards any picture is one seek and one read away. That gives full
shuffling and exact resume, which a stream cannot, and needs no library. Shards have to be uncompressed files;
for shards behind a pipe or a URL, hand a dataset of the webdataset library to the loader instead.
"""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dinov3_ref.data.datasets.encoded import EncodedImages, require_some
from dinov3_ref.data.datasets.packed_text import PackedText
from dinov3_ref.data.decoding import SUFFIXES
from dinov3_ref.errors import DataError

LABEL_SUFFIXES = (".cls", ".txt")  # the class as a number or a word

Entry = tuple[str, int, int, str | None]  # name, offset, size, label


class TarShards(EncodedImages):
    """The pictures of one or many shards, shard by shard, in their order.

    shards: paths, globs and webdataset's ranges (`train-{000..146}.tar`).
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        labelled: bool = False,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.transform = transform
        self.shards = expand_paths(shards)
        per_shard = [_index(shard) for shard in self.shards]
        entries = [entry for shard in per_shard for entry in shard]
        require_some(len(entries), ", ".join(map(str, self.shards)), "members that are pictures")
        self.shard_of = np.repeat(np.arange(len(per_shard)), [len(shard) for shard in per_shard])
        self.places = np.array([(offset, size) for _, offset, size, _ in entries], dtype=np.int64)
        self.names = PackedText(name for name, _, _, _ in entries)
        if labelled:
            bare = next((name for name, _, _, label in entries if label is None), None)
            if bare is not None:
                raise DataError(f"{bare!r} has no label; wanted a member of that name ending in .cls")
            self.set_labels([str(label) for _, _, _, label in entries])

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        offset, size = self.places[index].tolist()
        with self.shards[self.shard_of[index]].open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def name(self, index: int) -> str:
        return f"{self.shards[self.shard_of[index]]}/{self.names[index]}"


def expand_paths(patterns: str | Path | Sequence[str | Path]) -> list[Path]:
    """Paths, globs and `{000..146}` ranges -> files. Raises `DataError` for one that is not there."""
    listed = [patterns] if isinstance(patterns, (str, Path)) else patterns
    paths: list[Path] = []
    for pattern in (one for text in listed for one in _expand_range(str(text))):
        matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
        if not matches or not Path(matches[0]).is_file():
            raise DataError(f"{pattern!r} is not a file and matches none; wanted shards")
        paths += map(Path, matches)
    return paths


def _expand_range(text: str) -> list[str]:
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if found is None:
        return [text]
    low, high = found.groups()
    numbers = (str(number).zfill(len(low)) for number in range(int(low), int(high) + 1))
    return [one for number in numbers for one in _expand_range(text.replace(found[0], number, 1))]


def _index(shard: Path) -> list[Entry]:
    """Pictures of a shard, in order, each with the label of its sample, if any."""
    pictures: list[tuple[str, int, int]] = []
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in _files(archive):
                suffix = PurePosixPath(member.name).suffix.lower()
                if suffix in SUFFIXES:
                    pictures.append((member.name, member.offset_data, member.size))
                elif suffix in LABEL_SUFFIXES:
                    content = archive.extractfile(member)
                    assert content is not None
                    labels.setdefault(_key(member.name), content.read().decode("utf-8", "replace").strip())
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"'{shard}' cannot be read as a tar file: {error}; shards have to be whole and uncompressed"
        ) from error
    return [(name, offset, size, labels.get(_key(name))) for name, offset, size in pictures]


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    return (member for member in archive if member.isfile())


def _key(name: str) -> str:
    """The folder and the name up to its first dot."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
