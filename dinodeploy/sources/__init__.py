"""Where pictures come from: files and folders, lists, archives, tables, URLs, videos.

A source knows the ids of its pictures, in an order that never changes, and opens any of them by position.
`open_source` finds out what the user's words mean; one module each.

    photos/  a.jpg  *.png      files; a folder's are found by suffix
    paths.txt  -               a path or URL a line
    table.csv  table.tsv       a column of paths or URLs
    shard-{000..010}.tar       webdataset: shard-000.tar/0001.jpg
    photos.zip                 photos.zip/cats/1.jpg
    train.parquet  a.arrow     pictures in a column, or paths
    dataset/                   what `datasets` saved to disk
    clip.mp4                   every n-th frame: clip.mp4#t=12.480
    s3://…  https://…          any of these, further away
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Protocol

from PIL import Image

from dinodeploy.errors import MisuseError
from dinodeploy.images.paths import expand_path, no_picture, walk_folder
from dinodeploy.sources import lists, remote
from dinodeploy.sources.ids import PackedIds
from dinodeploy.sources.mixture import join
from dinodeploy.sources.options import SourceOptions
from dinodeploy.sources.origins import origins_of
from dinodeploy.sources.paths import FileSource
from dinodeploy.sources.place import DiskPlace, Place

__all__ = ["Source", "SourceOptions", "FileSource", "open_source", "origins_of"]

# The end of a file's name -> the module here whose `open_place` reads it. Every other file is a picture.
KINDS = {
    ".txt": "lists", ".lst": "lists",
    ".csv": "tables.columns", ".tsv": "tables.columns",
    ".tar": "tars", ".tar.gz": "tars", ".tgz": "tars", ".tar.bz2": "tars", ".tar.xz": "tars",
    ".tar.zst": "tars", ".zip": "zips",
    ".parquet": "tables.parquet", ".arrow": "tables.arrow", ".feather": "tables.arrow",
    ".mp4": "video", ".m4v": "video", ".mov": "video", ".mkv": "video", ".webm": "video", ".avi": "video",
    ".mpg": "video", ".mpeg": "video", ".ts": "video", ".m2ts": "video", ".wmv": "video", ".flv": "video",
    ".ogv": "video", ".3gp": "video",
}  # fmt: skip

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_OF_A_RANGE = 1_000_000


class Source(Protocol):
    """Pictures by position. `picture` may be called from several threads at once."""

    ids: Sequence[str]  # each once, in order

    def picture(self, index: int) -> str | Path | bytes | Image.Image:
        """What `images.open_image` takes: a path, an encoded file, or a picture.

        Raises ImageError when there is nothing to open; the picture is then quarantined.
        """
        ...

    def close(self) -> None: ...


def open_source(inputs: Sequence[str | Path], options: SourceOptions | None = None) -> Source:
    """The pictures under `inputs`, in their order.

    Raises MisuseError for what is not there, UnavailableError for what needs a package that is missing.
    """
    chosen = options or SourceOptions()
    parts: list[Source] = []
    try:
        for given in inputs:
            parts += _parts(str(given), chosen)
        source = join(parts)
        if not source.ids:
            raise MisuseError(no_picture(inputs) + _hint(inputs))
    except BaseException:
        for part in parts:
            part.close()
        raise
    return source


def _parts(given: str, options: SourceOptions) -> Iterator[Source]:
    if given == "-":
        yield lists.open_stdin(options)
        return
    found = (one for text in _expand_range(given) for one in _find(text, options))
    for single, group in groupby(found, key=lambda one: isinstance(one, str)):
        if single:  # all pictures that follow each other share one list of paths
            yield FileSource(PackedIds(path for path in group if isinstance(path, str)), options.timeout)
        else:
            yield from (part for part in group if not isinstance(part, str))


def _find(text: str, options: SourceOptions) -> Iterator[str | Source]:
    """Paths and URLs of pictures, and sources of what holds many."""
    if remote.is_url(text):
        for url in remote.find(text, recursive=options.recursive, timeout=options.timeout):
            kind = _kind(url.partition("::")[0].partition("?")[0])
            yield from _open(kind, remote.RemotePlace(url, options.timeout), options) if kind else [url]
        return
    for path in expand_path(text):
        if not os.path.isdir(path):  # noqa: PTH112
            kind = _kind(path)
            yield from _open(kind, DiskPlace(path), options) if kind else [path]
        elif _is_dataset(Path(path)):
            yield from import_module("dinodeploy.sources.tables.dataset").open_folder(path, options)
        else:
            yield from walk_folder(path, recursive=options.recursive)


def _kind(name: str) -> str | None:
    lower = name.lower()
    return next((kind for suffix, kind in KINDS.items() if lower.endswith(suffix)), None)


def _open(kind: str, place: Place, options: SourceOptions) -> list[Source]:
    opened: list[Source] = import_module(f"dinodeploy.sources.{kind}").open_place(place, options)
    return opened


def _is_dataset(folder: Path) -> bool:
    """A folder as `datasets` saves it."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def _expand_range(text: str) -> Iterator[str]:
    """shard-{08..10}.tar -> shard-08.tar, shard-09.tar, shard-10.tar; a file of that very name is itself."""
    found = _RANGE.search(text)
    if found is None or os.path.lexists(text):
        yield text
        return
    first, last = map(int, found.groups())
    if not first <= last < first + _MOST_OF_A_RANGE:
        raise MisuseError(f"{text!r}: got the range {found[0]}, wanted one that goes up, like {{000..010}}")
    width = len(found[1])
    for number in range(first, last + 1):
        yield from _expand_range(f"{text[: found.start()]}{number:0{width}d}{text[found.end() :]}")


def _hint(inputs: Sequence[str | Path]) -> str:
    """What a folder without pictures holds instead, if it can be read when it is named."""
    for folder in map(Path, inputs):
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if _kind(path.name):
                    return f"; it holds {path.name}: name such files, {folder}/*{path.suffix}"
    return ""
