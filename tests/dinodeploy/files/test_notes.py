"""A note is logged once per process."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from dinodeploy.files.notes import note_once


def test_the_same_note_comes_once(caplog: pytest.LogCaptureFixture) -> None:
    note_once.cache_clear()
    with caplog.at_level(logging.WARNING, "dinodeploy"):
        for text in ("a", "b", "a"):
            note_once(text)
    assert [record.getMessage() for record in caplog.records] == ["note: a", "note: b"]


def test_it_is_a_plain_line_on_stderr_where_nobody_has_set_up_logging() -> None:
    code = "from dinodeploy.files.notes import note_once; note_once('no locks here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "note: no locks here\n")
