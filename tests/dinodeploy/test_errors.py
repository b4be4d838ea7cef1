"""Messages: one line that a terminal can show, whatever the quoted file contains."""

from __future__ import annotations

import errno
import pickle

import pytest

from dinodeploy.errors import BundleError, DinodeployError, one_line, printable, reason_of


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two  spaces stay; é and … too", "two  spaces stay; é and … too"),
        ("one\ntwo\r\nthree", "one two three"),
        ("\x1b[2Jgone\x00", "\\x1b[2Jgone\\x00"),
        ("\ud800", "\\ud800"),
    ],
)
def test_a_message_is_one_printable_line(text: str, shown: str) -> None:
    assert str(BundleError(text)) == shown


def test_a_very_long_message_keeps_the_cause_and_the_fix() -> None:
    text = one_line(f"it is wrong: {'x' * 100_000}; fix it")
    assert len(text) < 2000
    assert text.startswith("it is wrong: xxx")
    assert text.endswith("xxx; fix it")


def test_errors_can_be_pickled() -> None:
    error: DinodeployError = pickle.loads(pickle.dumps(BundleError("a\nb")))
    assert (type(error), str(error)) == (BundleError, "a b")


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
def test_printable_escapes_control_characters(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "No such file or directory"),
        (ValueError("first line\nsecond"), "first line"),
        (RuntimeError(""), "RuntimeError"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_the_reason_of_a_foreign_error_is_short(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
