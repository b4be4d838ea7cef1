"""Text of every encoding, from files and pipes."""

from __future__ import annotations

import codecs
import io
import os
import threading

import pytest

from dinodeploy.files.text import encoding_of, open_text

TEXT = "Ångström,1\r\nb\x85c\n\n日本\n"


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
    ],
)
def test_every_encoding(encoding: str, mark: bytes) -> None:
    assert open_text(io.BytesIO(mark + TEXT.encode(encoding))).read() == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(encoding: str) -> None:
    assert open_text(io.BytesIO("path\n1.jpg\n".encode(encoding))).read() == "path\n1.jpg\n"


def test_bytes_that_are_not_utf_8_are_kept() -> None:
    assert os.fsencode(open_text(io.BytesIO(b"a\xe9.jpg\n")).read()) == b"a\xe9.jpg\n"


@pytest.mark.parametrize("text", ["", "a", "ab", "abc", "\n", "a\n"])
def test_short_texts(text: str) -> None:
    assert open_text(io.BytesIO(text.encode())).read() == text


def test_wrong_utf_16_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="utf-16"):
        open_text(io.BytesIO(codecs.BOM_UTF16_LE + b"a\0b")).read()


def test_a_pipe_that_gives_one_byte_after_the_other() -> None:
    reading, writing = os.pipe()
    data = codecs.BOM_UTF16_LE + "日本\nb\n".encode("utf-16-le")

    def write() -> None:
        for byte in data:
            os.write(writing, bytes([byte]))
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as stream:
        assert list(open_text(stream)) == ["日本\n", "b\n"]
    thread.join()


def test_closing_the_text_leaves_the_stream_open() -> None:
    stream = io.BytesIO(b"a\n")
    open_text(stream).close()
    assert not stream.closed


def test_zero_bytes_in_both_places_are_not_utf_16() -> None:
    assert encoding_of(b"\0\0\0\0") == "utf-8"
