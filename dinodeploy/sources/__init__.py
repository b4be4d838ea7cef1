"""Where pictures come from: files and folders, lists, archives, tables, URLs, videos.

    photos/ *.jpg  x.png         files, folders, globs                         listing.py
    s3://… gs://… https://…      files behind URLs; folders and globs where     paths.py, storage.py
                                 the scheme has them; archives and tables too
    list.txt  table.csv  -       paths, one a line or one a row                 lists.py
    train-{000..146}.tar         archives                                       tar.py
    table.parquet                pictures or paths in a column                  tables.py
    a `save_to_disk` folder      Hugging Face's `datasets`                      hf_dataset.py
    clip.mp4                     frames                                         video.py

A source knows the ids of its pictures, in an order that never changes, and opens any of them by position.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from dinodeploy.errors import MisuseError
from dinodeploy.listing import expand_path, walk_folder
from dinodeploy.sources.hf_dataset import SavedDataset, is_saved_dataset, saved_splits
from dinodeploy.sources.ids import PackedIds, distinct, repeated
from dinodeploy.sources.joined import JoinedSource
from dinodeploy.sources.lists import read_paths
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.paths import FileSource, list_url
from dinodeploy.sources.storage import is_url
from dinodeploy.sources.tables import ParquetTable, TableSource, read_path_column
from dinodeploy.sources.tar import TarSource
from dinodeploy.sources.video import SUFFIXES as VIDEO_SUFFIXES
from dinodeploy.sources.video import VideoSource

__all__ = ["Source", "SourceOptions", "FileSource", "open_source"]


class Source(Protocol):
    """Pictures by position. `picture` may be called from several threads at once."""

    ids: Sequence[str]  # each once, in order

    def picture(self, index: int) -> str | Path | bytes | Image.Image:
        """What `images.open_image` takes: a path, an encoded file, or a picture.

        Raises ImageError when there is nothing to open; the picture is then quarantined.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Parts:
    """Sources that an input consists of."""

    sources: Sequence[Source]


# What one input turns out to be: paths, which are merged with the paths of other inputs, or a source.
Opened = Iterable[str] | Parts


def _list(name: str, options: SourceOptions) -> Opened:
    return read_paths(name, options)


def _tar(name: str, options: SourceOptions) -> Opened:
    return Parts([TarSource(name, options)])


def _video(name: str, options: SourceOptions) -> Opened:
    return Parts([VideoSource(name, options)])


def _parquet(name: str, options: SourceOptions) -> Opened:
    table = ParquetTable(name, options.timeout)
    column, holds_pictures = table.choose(options.column)
    if holds_pictures:
        return Parts([TableSource(table, column, options)])
    return read_path_column(table, column)


KINDS: dict[tuple[str, ...], Callable[[str, SourceOptions], Opened]] = {
    (".txt", ".lst", ".csv", ".tsv"): _list,
    (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"): _tar,
    (".parquet", ".pq"): _parquet,
    VIDEO_SUFFIXES: _video,
}


def open_source(inputs: Sequence[str | Path], options: SourceOptions | None = None) -> Source:
    """The pictures under `inputs`, in order; paths of all inputs first, each once.

    Raises MisuseError for what is not there, is empty or would give two pictures one id, UnavailableError
    for a kind whose package is missing.
    """
    options = options or SourceOptions()
    paths = PackedIds()
    parts: list[Source] = []
    try:
        for name in (one for text in inputs for one in _expand(str(text), options)):
            opened = _open(name, options)
            if isinstance(opened, Parts):
                parts += opened.sources
            else:
                paths.extend(opened)
        if paths:
            parts.insert(0, FileSource(distinct(paths), options.timeout))
        return _join(parts, inputs)
    except BaseException:
        for part in parts:
            part.close()
        raise


def _join(parts: list[Source], inputs: Sequence[str | Path]) -> Source:
    source = parts[0] if len(parts) == 1 else JoinedSource(parts)
    if not source.ids:
        raise MisuseError(f"no picture under {', '.join(repr(str(one)) for one in inputs) or 'no input'}")
    if len(parts) > 1 and (doubles := repeated(source.ids)):
        id_ = next(iter(doubles))
        raise MisuseError(f"{id_!r} is the id of two pictures of different inputs; embed them one by one")
    return source


def _open(name: str, options: SourceOptions) -> Opened:
    if name == "-":
        return read_paths(name, options)
    folder = Path(name)
    if not is_url(name) and os.path.isdir(name):  # noqa: PTH112
        if is_saved_dataset(folder):
            return Parts([SavedDataset(split, options) for split in saved_splits(folder)])
        return walk_folder(name)
    path = name.split("?")[0].lower() if is_url(name) else name.lower()
    for suffixes, opener in KINDS.items():
        if path.endswith(suffixes):
            return opener(name, options)
    return [name]


def _expand(text: str, options: SourceOptions) -> Iterator[str]:
    """An input as the names that it stands for: ranges, globs, folders behind URLs."""
    for name in _expand_range(text):
        if name == "-":
            yield name
        elif is_url(name):
            yield from list_url(name, options.timeout)
        else:
            yield from expand_path(name)


def _expand_range(text: str) -> Iterator[str]:
    """webdataset's `{000..146}`, unless a file is called so."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if found is None or os.path.lexists(text):
        yield text
        return
    low, high = found.groups()
    for number in range(int(low), int(high) + 1):
        yield from _expand_range(text.replace(found[0], str(number).zfill(len(low)), 1))
