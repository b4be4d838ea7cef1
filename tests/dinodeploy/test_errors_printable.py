"""Names on one line, and nothing in them that a terminal obeys."""

from __future__ import annotations

import pytest

from dinodeploy.errors import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café 😀 日本.jpg", "café 😀 日本.jpg"),
        ("👩\u200d💻.jpg", "👩\u200d💻.jpg"),
        ("a\nb\r\t\x1b[31m", r"a\nb\r\t\x1b[31m"),
        ("x\u202egpj.exe", r"x\u202egpj.exe"),
        (b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), r"caf\udce9.jpg"),
        ("", ""),
    ],
)
def test_it_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()
