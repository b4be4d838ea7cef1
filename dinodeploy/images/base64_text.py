"""Images as base64 text, in every spelling that people use (RFC 4648, RFC 2397)."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote

_DATA_URL = re.compile(r"\s*data:[^,]{0,200};\s*base64\s*,", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")
# The first letters of JPEG, PNG, GIF, RIFF (WebP), BMP, TIFF in both orders, and ISO media (AVIF, HEIF).
_BEGINNINGS = ("/9j/", "_9j_", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A", "AAAA")
SHORTEST = 48  # letters: 36 bytes are less than the smallest image
_LETTERS = re.compile(r"[A-Za-z0-9+/_=\s-]+")


def decode_base64(text: str) -> bytes:
    """The bytes of a base64 text as clients write it. Raises ValueError.

    Accepted: a `data:…;base64,` prefix, line breaks and spaces, the URL-safe alphabet, percent-encoding and
    missing padding (RFC 4648, RFC 2397).
    """
    prefix = _DATA_URL.match(text)
    if prefix is not None:
        text = text[prefix.end() :]
        text = unquote(text) if "%" in text else text
    text = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    if not text.isascii() or len(text) % 4 == 1:
        raise ValueError("not base64")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def data_url_type(text: str) -> str | None:
    """The media type of a base64 data URL, empty if it has none; None for any other text."""
    found = _DATA_URL.match(text)
    return None if found is None else found[0].partition(":")[2].partition(";")[0].strip().lower()


def is_base64_image(text: str) -> bool:
    """Whether a text is an image in base64 rather than a path: a data URL, or the beginning of an image."""
    if _DATA_URL.match(text):
        return True
    start = text.lstrip()
    return (
        start.startswith(_BEGINNINGS)
        and len(start) >= SHORTEST
        and _LETTERS.fullmatch(start, 0, 4096) is not None
    )
