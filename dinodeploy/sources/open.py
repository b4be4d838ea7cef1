"""Open the inputs that a user names: each is read by the module for its kind."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import accumulate, groupby
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.arrays import IndexArray
from dinodeploy.errors import MisuseError
from dinodeploy.files.paths import from_file_url, native_path
from dinodeploy.sources import files, remote
from dinodeploy.sources.files import FileSource
from dinodeploy.sources.folders import Lost, Skipped, expand_path, no_image, walk_folder
from dinodeploy.sources.ids import IdList, repeats
from dinodeploy.sources.input_file import InputFile, LocalFile, Unreadable
from dinodeploy.sources.source import (
    Source,
    SourceOptions,
    Stamp,
    origin_of,
    origins_of,
    skipped_of,
    stamp_of,
)

# Suffix -> module of this package whose `open_file` reads such files. Any other file is one image.
KINDS = {
    ".txt": "files", ".lst": "files",
    ".csv": "tables.csv_file", ".tsv": "tables.csv_file",
    ".tar": "archives.tars", ".tar.gz": "archives.tars", ".tgz": "archives.tars", ".tar.bz2": "archives.tars",
    ".tbz2": "archives.tars", ".tbz": "archives.tars", ".tar.xz": "archives.tars", ".txz": "archives.tars",
    ".tar.zst": "archives.tars", ".tzst": "archives.tars", ".zip": "archives.zips",
    ".parquet": "tables.parquet", ".arrow": "tables.arrow", ".feather": "tables.arrow",
    ".mp4": "video", ".m4v": "video", ".mov": "video", ".mkv": "video", ".webm": "video", ".avi": "video",
    ".mpg": "video", ".mpeg": "video", ".ts": "video", ".m2ts": "video", ".wmv": "video", ".flv": "video",
    ".ogv": "video", ".3gp": "video",
}  # fmt: skip

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LONGEST_RANGE = 1_000_000


def open_source(inputs: Sequence[str | Path], options: SourceOptions | None = None) -> Source:
    """The images under `inputs`, in order.

    Raises MisuseError for an input that does not exist, UnavailableError where a package is missing.
    """
    chosen = options or SourceOptions()
    parts: list[Source] = []
    skipped: Skipped = {}
    lost: list[Lost] = []
    try:
        for given in inputs:
            parts += _parts(str(given), chosen, skipped, lost)
        if all(isinstance(part, Unreadable) and part.is_folder for part in parts):
            raise MisuseError(no_image(inputs, skipped, lost) + _hint(inputs))
        source = join(parts, skipped)
        if not source.ids:
            raise MisuseError(no_image(inputs, skipped_of(source), lost) + _hint(inputs))
    except BaseException:
        for part in parts:
            part.close()
        raise
    return source


def _parts(given: str, options: SourceOptions, skipped: Skipped, lost: list[Lost]) -> Iterator[Source]:
    if given == "-":
        yield files.open_stdin(options)
        return
    found = (one for text in _expand_range(given) for one in _find(text, options, skipped))
    for single, group in groupby(found, key=lambda one: isinstance(one, str)):
        if single:  # consecutive image files share one list of paths
            yield FileSource(IdList(path for path in group if isinstance(path, str)), options.timeout)
        else:
            for part in group:
                if isinstance(part, Lost):
                    lost.append(part)
                    yield Unreadable(part.id, f"cannot be listed: {part.reason}", is_folder=True)
                elif not isinstance(part, str):
                    yield part


def _find(text: str, options: SourceOptions, skipped: Skipped) -> Iterator[str | Lost | Source]:
    """Paths and URLs of single images, sources of files that hold many, and folders that cannot be listed."""
    if remote.is_url(text) and from_file_url(text) is None:
        for url in remote.find(text, recursive=options.recursive, timeout=options.timeout):
            kind = _kind(url.partition("::")[0].partition("?")[0])
            yield from _open(kind, remote.RemoteFile(url, options.timeout), options) if kind else [url]
        return
    for path in expand_path(text):
        if isinstance(path, Lost):
            yield path
        elif not os.path.isdir(native_path(path)):  # noqa: PTH112
            kind = _kind(path)
            yield from _open(kind, LocalFile(path), options) if kind else [path]
        elif _is_dataset(Path(native_path(path))):
            yield from import_module("dinodeploy.sources.tables.dataset").open_folder(path, options)
        else:
            yield from walk_folder(path, skipped, recursive=options.recursive)


def _kind(name: str) -> str | None:
    lower = name.lower()
    return next((kind for suffix, kind in KINDS.items() if lower.endswith(suffix)), None)


def _open(kind: str, file: InputFile, options: SourceOptions) -> list[Source]:
    opened: list[Source] = import_module(f"dinodeploy.sources.{kind}").open_file(file, options)
    return opened


def _is_dataset(folder: Path) -> bool:
    """Whether Hugging Face `datasets` saved this folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def _expand_range(text: str) -> Iterator[str]:
    """shard-{08..10}.tar -> shard-08.tar, shard-09.tar, shard-10.tar, unless a file has that very name."""
    found = _RANGE.search(text)
    if found is None or os.path.lexists(text):
        yield text
        return
    first, last = map(int, found.groups())
    if not first <= last < first + _LONGEST_RANGE:
        raise MisuseError(f"{text!r}: got the range {found[0]}, wanted an ascending one like {{000..010}}")
    width = len(found[1])
    for number in range(first, last + 1):
        yield from _expand_range(f"{text[: found.start()]}{number:0{width}d}{text[found.end() :]}")


def _hint(inputs: Sequence[str | Path]) -> str:
    """Files in a folder without images that can be read when they are named."""
    for folder in map(Path, inputs):
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if _kind(path.name):
                    return f"; it holds {path.name}: name such files, {folder}/*{path.suffix}"
    return ""


MAX_OPEN = 4  # parts that may keep files open


def join(parts: Sequence[Source], skipped: Skipped | None = None) -> Source:
    """The only part, or all parts as one source; files alone give one `FileSource`.

    skipped: files of folders that were left out; those of archives are known to the parts.

    A location that is named twice is one image, at its first position. Raises MisuseError where an id from a
    table stands for two images.
    """
    joined = JoinedSource(parts, skipped)
    files = [part for part in parts if isinstance(part, FileSource) and part.is_plain]
    if files and len(files) == len(parts):
        return FileSource(joined.ids, files[0].timeout, skipped=joined.skipped)
    return parts[0] if len(parts) == 1 and joined.has_no_repeats and not skipped else joined


class JoinedSource:
    """Sources one after the other, as `join` makes them."""

    def __init__(self, parts: Sequence[Source], skipped: Skipped | None = None) -> None:
        self.parts = parts
        self.skipped: Skipped = dict(skipped or {})
        for part in parts:
            self.skipped.update(skipped_of(part))
        self._starts = [0, *accumulate(len(part.ids) for part in parts)]
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._lock = Lock()
        everything = IdList.joined(part.ids for part in parts)
        self._kept = self._first_mentions(everything)
        self.has_no_repeats = self._kept is None
        self.ids = everything if self._kept is None else IdList(everything[int(i)] for i in self._kept)

    @property
    def origins(self) -> Iterator[str]:
        """The origins of all parts."""
        return (origin for part in self.parts for origin in origins_of(part))

    def image(self, index: int) -> str | Path | bytes | Image.Image:
        position = range(len(self.ids))[index]
        if self._kept is not None:
            position = int(self._kept[position])
        part = self._part_of(position)
        self._use(part)
        return self.parts[part].image(position - self._starts[part])

    @property
    def reader(self) -> Callable[[int], Any] | None:
        """See `Source`: None unless every part has one."""
        readers = [getattr(part, "reader", None) for part in self.parts]
        if None in readers:
            return None

        def read(index: int) -> Any:
            position = index if self._kept is None else int(self._kept[index])
            part = self._part_of(position)
            return readers[part](position - self._starts[part])  # type: ignore[misc]

        return read

    def stamp(self, index: int) -> Stamp:
        """See `stamp_of`."""
        return stamp_of(*self._found(index))

    def origin(self, index: int) -> str:
        """See `origin_of`."""
        return origin_of(*self._found(index))

    @property
    def last_progress(self) -> float:
        """See `Source`."""
        return max((getattr(part, "last_progress", 0.0) for part in self.parts), default=0.0)

    def _found(self, index: int) -> tuple[Source, int]:
        """The part that holds an image, and its position there."""
        position = range(len(self.ids))[index]
        if self._kept is not None:
            position = int(self._kept[position])
        part = self._part_of(position)
        return self.parts[part], position - self._starts[part]

    def _part_of(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def _use(self, part: int) -> None:
        """Release the least recently used part: a thousand open videos are too many."""
        with self._lock:
            self._recent[part] = None
            self._recent.move_to_end(part)
            oldest = self._recent.popitem(last=False)[0] if len(self._recent) > MAX_OPEN else None
        release = getattr(self.parts[oldest], "release", None) if oldest is not None else None
        if release is not None:
            release()

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def _first_mentions(self, ids: IdList) -> IndexArray | None:
        """Positions of the first mention of each id; None where no id is repeated."""
        found = repeats(ids)
        if not found:
            return None
        for pair in found:
            for position in pair:
                if not getattr(self.parts[self._part_of(position)], "ids_are_locations", False):
                    raise MisuseError(
                        f"the id {ids[pair[0]]!r} is given to two images; use another --id-column, or none"
                    )
        keep = np.ones(len(ids), bool)
        keep[[position for position, _ in found]] = False
        return np.flatnonzero(keep).astype(np.int64)
