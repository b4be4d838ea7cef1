"""Run `dinodeploy` in this process: its exit code, stdout and stderr, as a shell would see them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The error line, once it is certain that there is exactly one and no traceback."""
        lines = [line for line in self.err.splitlines() if not line.startswith("[")]  # [1.2 s] progress
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in self.err
        return lines[0]


def assert_refused(ran: Ran, message: str, folder: Path, before: list[Path]) -> None:
    """One line with `message`, exit 2, nothing on stdout, and `folder` as it was `before`."""
    assert ran.code == 2
    assert message in ran.error
    assert ran.out == ""
    assert sorted(folder.rglob("*")) == before


class CommandLine:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *arguments: object) -> Ran:
        from dinodeploy.cli.app import main

        self._monkeypatch.setattr(sys, "argv", ["dinodeploy", *map(str, arguments)])
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = self._capfd.readouterr()
        assert isinstance(exit_.value.code, int)
        return Ran(exit_.value.code, out, err)
