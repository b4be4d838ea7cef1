"""Names of files that we make from names of others: valid on every system, and never twice.

Windows and macOS take two names for one where they differ in case or in how accents are composed. Windows
reserves names, signs, and dots and spaces at the end. Names are at most 255 bytes, 143 on some encrypted
drives.
Source: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

LONGEST = 96  # bytes of a stem in UTF-8
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\.|$)", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')


def safe_stem(id_: str) -> str:
    """The last part of a path or URL, without its suffix, as a part of a file name."""
    stem = PurePosixPath(id_).stem.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    stem = _FORBIDDEN.sub("_", stem)
    while len(stem.encode()) > LONGEST:
        stem = stem[: max(1, len(stem) - max(1, (len(stem.encode()) - LONGEST) // 4))]
    stem = stem.rstrip(". ")
    return f"_{stem}" if not stem or _RESERVED.match(stem) else stem


class UniqueNames:
    """Gives stems out so that no file name occurs twice, on any system."""

    def __init__(self, taken: Sequence[str] = ()) -> None:
        self._taken = {folded(name) for name in taken}

    def claim(self, stem: str, endings: Sequence[str]) -> str:
        """`stem`, or `stem~2` and so on: none of its names with `endings` was given out before."""
        number = 1
        while True:
            unique = stem if number == 1 else f"{stem}~{number}"
            names = {folded(unique + ending) for ending in endings}
            if not names & self._taken:
                self._taken |= names
                return unique
            number += 1


def folded(name: str) -> str:
    """The same text for all names that some system takes for one."""
    name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return name.rstrip(". ")
