"""The command that writes the toy data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinov3_ref.data.toy import sets
from dinov3_ref.data.toy.__main__ import main


def test_an_existing_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err == f"error: '{tmp_path}' exists already; remove it or choose another folder\n"
    )


def test_it_prints_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sets, "PER_CLASS", {"train": 1})
    monkeypatch.setattr(sets, "digit_images", lambda side, seed: iter(()))
    assert main([str(tmp_path / "x"), "--images", "4", "--side", "16"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path / 'x' / 'pool'}  4 images"
