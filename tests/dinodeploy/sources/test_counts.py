"""What became of every file that a command has seen."""

from __future__ import annotations

from collections import Counter

import pytest

from dinodeploy.sources.counts import Counts, skipped_note


def test_line_and_json() -> None:
    counts = Counts(7, 3, 1, 1, Counter({".heic": 2}))
    assert counts.adds_up
    assert counts.line() == "seen 7: 3 embedded, 1 already there, 2 skipped (2 .heic), 1 quarantined"
    assert counts.as_json() == {
        "seen": 7,
        "embedded": 3,
        "already": 1,
        "skipped": 2,
        "quarantined": 1,
        "skipped_by_suffix": {".heic": 2},
    }
    assert Counts(2, 2, 0, 0).line("predicted") == "seen 2: 2 predicted"
    assert not Counts(3, 2, 0, 0).adds_up


def test_the_note_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = {"a": Counter({".qoi": 1, ".dng": 1}), "b": Counter({".qoi": 1, ".tar": 1, ".txt": 4})}
    assert skipped_note(skipped) == (
        "skipped 8 files: 4 .txt, 2 .qoi, 1 .dng, 1 .tar; .tar: name such files to read what they hold; "
        ".dng: convert to JPEG or TIFF first; .qoi: convert to JPEG or PNG first"
    )
    assert skipped_note({}) == ""


def test_many_suffixes_are_cut_short() -> None:
    note = skipped_note({"a": Counter({f".x{number}": 1 for number in range(50)})})
    assert note == "skipped 50 files: 1 .x0, 1 .x1, 1 .x10, 1 .x11, 1 .x12, 1 .x13, 44 others"
