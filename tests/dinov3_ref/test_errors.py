"""`reason_of` shortens another library's message to one line."""

from __future__ import annotations

from dinov3_ref.errors import reason_of


def test_the_first_line_is_the_reason() -> None:
    assert reason_of(ValueError("  bad   header\nand more")) == "bad header"
    assert reason_of(ValueError()) == "ValueError"
    assert reason_of(ValueError("x" * 300)) == "x" * 200
    assert reason_of(ValueError("abcdef"), limit=3) == "abc"


def test_the_operating_system_speaks_for_itself() -> None:
    error = FileNotFoundError(2, "No such file or directory", "a.npz")
    assert reason_of(error) == "No such file or directory"
