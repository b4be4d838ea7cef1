"""Names as they may be shown: a file name can hold line breaks, colours for terminals, and worse."""

from __future__ import annotations

_JOINER = "\u200d"  # holds together emoji of several characters, and is not printable alone


def printable(text: str) -> str:
    """`text` on one line, with what a terminal or a page would obey as an escape: \\n, \\x1b, \\u202e."""
    return "".join(
        sign if sign.isprintable() or sign == _JOINER else sign.encode("unicode_escape").decode()
        for sign in text
    )
