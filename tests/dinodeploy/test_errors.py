"""A message is one line that a terminal can show, whatever the file held that it quotes."""

from __future__ import annotations

import pickle

import pytest

from dinodeploy.errors import BundleError, DinodeployError, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two  spaces stay; é and … too", "two  spaces stay; é and … too"),
        ("one\ntwo\r\nthree", "one two three"),
        ("\x1b[2Jgone\x00", "\\x1b[2Jgone\\x00"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_message_shows(text: str, shown: str) -> None:
    assert str(BundleError(text)) == shown


def test_an_endless_message_keeps_what_is_wrong_and_what_mends_it() -> None:
    text = one_line(f"it is wrong: {'x' * 100_000}; mend it")
    assert len(text) < 2000
    assert text.startswith("it is wrong: xxx")
    assert text.endswith("xxx; mend it")


def test_errors_cross_processes() -> None:
    error: DinodeployError = pickle.loads(pickle.dumps(BundleError("a\nb")))
    assert (type(error), str(error)) == (BundleError, "a b")
