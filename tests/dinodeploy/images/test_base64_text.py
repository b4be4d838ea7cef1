"""Images as base64 text."""

from __future__ import annotations

import base64
import textwrap

import pytest

from dinodeploy.images.base64_text import decode_base64, is_base64_image
from tests.support.images.image_files import encoded

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")


@pytest.mark.parametrize("format_", FORMATS)
def test_every_spelling(format_: str) -> None:
    data = encoded("coffee", format=format_)
    plain = base64.b64encode(data).decode()
    for text in (
        plain,
        plain.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        "\n".join(textwrap.wrap(plain, 76)),
        f"data:image/jpeg;base64,{plain}",
        f" DATA:;base64,{plain} ",
    ):
        assert is_base64_image(text)
        assert decode_base64(text) == data


@pytest.mark.parametrize(
    "text",
    [
        "/9j/a.jpg",
        "photos/1.jpg",
        "/9j/" + "deep/" * 20 + "a.jpg",
        "Qk",
        "https://a.org/x",
        "",
        "AAAA" * 20 + "é",
    ],
)
def test_paths_are_not_base64(text: str) -> None:
    assert not is_base64_image(text)


@pytest.mark.parametrize("text", ["a", "é", "ab$d"])
def test_what_is_not_base64(text: str) -> None:
    with pytest.raises(ValueError, match="not base64"):
        decode_base64(text)
