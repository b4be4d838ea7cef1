"""Spell paths the same on every machine: with / between names, and in UTF-8.

Ids of images are such paths. Files are opened by the path as this system spells it: with another encoding
of names (`LC_ALL=C` without UTF-8 mode, a Latin-1 locale) Python spells the same bytes as other text.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

_UTF_8 = sys.getfilesystemencoding() == "utf-8"


PathLike = str | os.PathLike[str]


def given_paths(given: PathLike | Iterable[PathLike]) -> tuple[str, ...]:
    """The paths that a caller gave: one, or several."""
    return tuple(os.fspath(one) for one in ([given] if isinstance(given, (str, os.PathLike)) else given))


def given_path(given: PathLike | None) -> Path | None:
    """A path that a caller may leave out."""
    return None if given is None else Path(given)


def portable_path(path: str, *, utf_8: bool = _UTF_8, separator: str = os.sep) -> str:
    """A path of this system as ids spell it. utf_8: whether this system's names are UTF-8."""
    text = path if utf_8 else os.fsencode(path).decode("utf-8", "surrogateescape")
    return text if separator == "/" else text.replace(separator, "/")


def native_path(path: str, *, utf_8: bool = _UTF_8) -> str:
    """A path as ids spell it as this system's functions want it."""
    return path if utf_8 else os.fsdecode(path.encode("utf-8", "surrogateescape"))


def is_absolute(path: str, *, separator: str = os.sep) -> bool:
    """Whether a path starts at a root: / everywhere, on Windows also C:\\, C:/ and \\\\server\\share."""
    if separator == "/":
        return path.startswith("/")
    return path.startswith(("/", "\\")) or (path[1:2] == ":" and path[:1].isascii() and path[:1].isalpha())


def from_file_url(text: str, *, separator: str = os.sep) -> str | None:
    """The path behind a file:// URL (RFC 8089); None for any other text. %20 and the like are decoded."""
    if text[:5].lower() != "file:" or not text[5:].startswith("/"):
        return None
    path = unquote(text[5:], errors="surrogateescape")
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        path = slash + rest if host.lower() in ("", "localhost") else path
        path = f"{host}/{rest}" if host.endswith(":") else path  # file://C:/a.jpg is wrong, but usual
    drive = path.lstrip("/")
    return drive if separator != "/" and drive[1:2] == ":" else path


def as_written(text: str, exists: Callable[[str], bool]) -> str:
    """The path that a line of a list means: as it is written if it exists, else without what surrounds it.

    Tried in this order: the text, without spaces at its ends, without quotes, the home folder for ~, with
    / for \\ (lists from Windows). Where nothing exists, the path without spaces and quotes.
    """
    if text == text.strip() and text[:1] not in "\"'~" and "\\" not in text:
        return text
    best = text
    for best in _spellings(text):
        if exists(best):
            return best
    slashes = best.replace("\\", "/")
    return slashes if slashes != best and exists(slashes) else best


def _spellings(text: str) -> Iterator[str]:
    yield text
    text = text.strip()
    yield text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
        yield text
    if text.startswith("~"):
        yield portable_path(os.path.expanduser(text))  # noqa: PTH111
