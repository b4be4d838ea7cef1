"""Text of every encoding, from files and pipes."""

from __future__ import annotations

import ast
import codecs
import io
import os
import threading
from pathlib import Path

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


def text_writes(path: Path) -> list[str]:
    """Calls that write text and leave line ends to the system: CRLF on Windows, so other bytes and hashes."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or any(keyword.arg == "newline" for keyword in node.keywords):
            continue
        name = ast.unparse(node.func)
        modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        opens = name.endswith(("open", "fdopen")) and any(mode in ("w", "a", "x", "w+") for mode in modes)
        is_binary = any(word in name for word in ("archive", "zip", "av."))  # always bytes
        if (opens and not is_binary) or name.endswith(".write_text"):
            found.append(f"{path.name}:{node.lineno}: {name}")
    return found


@pytest.mark.parametrize("package", ["dinodeploy", "exporters"])
def test_files_have_the_same_bytes_on_every_system(package: str) -> None:
    root = Path(__file__).parents[3] / package
    assert [found for path in sorted(root.rglob("*.py")) for found in text_writes(path)] == []
