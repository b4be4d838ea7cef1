"""Spell paths the same on every machine: with / between names, and in UTF-8.

Ids of images are such paths. Files are opened by the path as this system spells it: with another encoding
of names (`LC_ALL=C` without UTF-8 mode, a Latin-1 locale) Python spells the same bytes as other text.
"""

from __future__ import annotations

import os
import sys

_UTF_8 = sys.getfilesystemencoding() == "utf-8"


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
