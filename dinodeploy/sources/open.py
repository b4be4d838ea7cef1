"""Open the inputs that a user names: each is read by the module for its kind."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path

from dinodeploy.errors import MisuseError
from dinodeploy.images.paths import expand_path, no_image, walk_folder
from dinodeploy.sources import files, remote
from dinodeploy.sources.files import FileSource
from dinodeploy.sources.ids import IdList
from dinodeploy.sources.input_file import InputFile, LocalFile
from dinodeploy.sources.joined import join
from dinodeploy.sources.source import Source, SourceOptions

# Suffix -> module of this package whose `open_file` reads such files. Any other file is one image.
KINDS = {
    ".txt": "files", ".lst": "files",
    ".csv": "tables.csv_file", ".tsv": "tables.csv_file",
    ".tar": "tars", ".tar.gz": "tars", ".tgz": "tars", ".tar.bz2": "tars", ".tar.xz": "tars",
    ".tar.zst": "tars", ".zip": "zips",
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
    try:
        for given in inputs:
            parts += _parts(str(given), chosen)
        source = join(parts)
        if not source.ids:
            raise MisuseError(no_image(inputs) + _hint(inputs))
    except BaseException:
        for part in parts:
            part.close()
        raise
    return source


def _parts(given: str, options: SourceOptions) -> Iterator[Source]:
    if given == "-":
        yield files.open_stdin(options)
        return
    found = (one for text in _expand_range(given) for one in _find(text, options))
    for single, group in groupby(found, key=lambda one: isinstance(one, str)):
        if single:  # consecutive image files share one list of paths
            yield FileSource(IdList(path for path in group if isinstance(path, str)), options.timeout)
        else:
            yield from (part for part in group if not isinstance(part, str))


def _find(text: str, options: SourceOptions) -> Iterator[str | Source]:
    """Paths and URLs of single images, and sources of files that hold many."""
    if remote.is_url(text):
        for url in remote.find(text, recursive=options.recursive, timeout=options.timeout):
            kind = _kind(url.partition("::")[0].partition("?")[0])
            yield from _open(kind, remote.RemoteFile(url, options.timeout), options) if kind else [url]
        return
    for path in expand_path(text):
        if not os.path.isdir(path):  # noqa: PTH112
            kind = _kind(path)
            yield from _open(kind, LocalFile(path), options) if kind else [path]
        elif _is_dataset(Path(path)):
            yield from import_module("dinodeploy.sources.tables.dataset").open_folder(path, options)
        else:
            yield from walk_folder(path, recursive=options.recursive)


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
