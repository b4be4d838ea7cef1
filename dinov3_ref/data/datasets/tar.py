"""Tar shards in webdataset's layout, with random access.

Members with the same name up to its first dot are one sample (`0001.jpg`, `0001.cls`). All headers are read
on opening; then any image takes one seek and one read, which allows full shuffling and exact resume. Shards
must be uncompressed files; for pipes and URLs give the loader a dataset of the webdataset library.
"""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dinov3_ref.data.datasets.encoded import EncodedImages, PackedText, require_some
from dinov3_ref.data.decoding import SUFFIXES
from dinov3_ref.errors import DataError

LABEL_SUFFIXES = (".cls", ".txt")  # the class as a number or a word

Entry = tuple[str, int, int, str | None]  # name, offset, size, label


class TarShards(EncodedImages):
    """The images of one or several shards, in order.

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
        require_some(len(entries), ", ".join(map(str, self.shards)), "members that are images")
        self.shard_of = np.repeat(np.arange(len(per_shard)), [len(shard) for shard in per_shard])
        self.places = np.array([(offset, size) for _, offset, size, _ in entries], dtype=np.int64)
        self.names = PackedText(name for name, _, _, _ in entries)
        if labelled:
            bare = next((name for name, _, _, label in entries if label is None), None)
            if bare is not None:
                raise DataError(f"{bare!r} has no label; wanted a member with this name and suffix .cls")
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
    """Files of paths, globs and `{000..146}` ranges. Raises `DataError` if one matches no file."""
    listed = [patterns] if isinstance(patterns, (str, Path)) else patterns
    paths: list[Path] = []
    for pattern in (one for text in listed for one in _expand_range(str(text))):
        matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
        if not matches or not Path(matches[0]).is_file():
            raise DataError(f"{pattern!r} matches no file; wanted a path, a glob or a range")
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
    """The images of a shard, in order, with the label of the sample if it has one."""
    images: list[tuple[str, int, int]] = []
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in _files(archive):
                suffix = PurePosixPath(member.name).suffix.lower()
                if suffix in SUFFIXES:
                    images.append((member.name, member.offset_data, member.size))
                elif suffix in LABEL_SUFFIXES:
                    content = archive.extractfile(member)
                    assert content is not None
                    labels.setdefault(_key(member.name), content.read().decode("utf-8", "replace").strip())
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"'{shard}' cannot be read as a tar file: {error}; shards must be complete and uncompressed"
        ) from error
    return [(name, offset, size, labels.get(_key(name))) for name, offset, size in images]


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    return (member for member in archive if member.isfile())


def _key(name: str) -> str:
    """Folder and name up to the first dot."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
