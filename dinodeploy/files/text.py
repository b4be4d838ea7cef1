"""Open text files of any origin: UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

A byte order mark decides. Without one, zero bytes beside the first letters show UTF-16, which Excel and
PowerShell write; everything else is UTF-8. Bytes that are not UTF-8 stay in the text as surrogates, because
names of files may be of any encoding.
"""

from __future__ import annotations

import codecs
import io
from typing import BinaryIO

_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_START = 4  # bytes that show the encoding


def open_text(stream: BinaryIO) -> io.TextIOWrapper:
    """The text of `stream`, from its start; line ends are kept. Closing it leaves `stream` open.

    Reading raises UnicodeError, which is a ValueError, for text that is neither.
    """
    start = stream.read(_START)
    buffered = io.BufferedReader(_Prefixed(start, stream), 1 << 16)  # type: ignore[type-var]
    return io.TextIOWrapper(buffered, encoding_of(start), "surrogateescape", newline="")


def encoding_of(start: bytes) -> str:
    """The encoding of a text that begins with these bytes."""
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if len(start) >= 2 and bool(start[0]) != bool(start[1]):  # a letter of ASCII in two bytes
        return "utf-16-le" if start[0] else "utf-16-be"
    return "utf-8"


class _Prefixed(io.RawIOBase):
    """A stream whose first bytes were read already. It may be a pipe."""

    def __init__(self, start: bytes, stream: BinaryIO) -> None:
        self._start = start
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        read1 = getattr(self._stream, "read1", self._stream.read)  # of a pipe: what is there now
        data = self._start or read1(len(buffer))
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        self._start = data[size:]
        return size
