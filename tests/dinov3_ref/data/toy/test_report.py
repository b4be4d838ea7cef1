"""Writers of toy images as commands: what was written, or one line and an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinov3_ref.data.toy.report import run_writer
from dinov3_ref.errors import DataError


def test_counts_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_writer(lambda: {"train": 3}, tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'train'}  3 images\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("taken"), "error: taken\n"),
        (OSError(28, "No space left", "a.jpg"), "error: 'a.jpg': No space left\n"),
    ],
)
def test_an_error_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> dict[str, int]:
        raise error

    assert run_writer(fail, Path("out")) == DataError.exit_code
    assert capsys.readouterr().err == line
