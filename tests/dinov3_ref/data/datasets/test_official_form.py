"""Dataset strings of the official form (docs/spec.md 4.14)."""

from __future__ import annotations

import pytest

from dinov3_ref.data.datasets.official_form import official_options
from dinov3_ref.errors import DataError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A:split=VAL:root=/x", ("/x", "VAL")),
        ("A:root=C:/a=b/x:split=val", ("C:/a=b/x", "VAL")),
        ("A:extra=e:root=/x", ("/x", "TRAIN")),
    ],
)
def test_keys_in_any_order(text: str, expected: tuple[str, str]) -> None:
    assert official_options(text, ("TRAIN", "VAL")) == expected


@pytest.mark.parametrize(
    ("text", "words"), [("A:split=TEST:root=x", "TRAIN|VAL"), ("A", "names no folder; add it: A:root=FOLDER")]
)
def test_bad_strings(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        official_options(text, ("TRAIN", "VAL"))
