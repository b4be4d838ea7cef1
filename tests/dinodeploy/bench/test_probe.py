"""A runner that cannot start is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy.bench.probe import probe_start
from dinodeploy.bench.runners import ENGINE, RunnerOptions
from dinodeploy.errors import UnavailableError


def test_a_runner_that_dies_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"engine does not start in its own process: .*no such bundle"):
        probe_start(ENGINE, RunnerOptions(str(tmp_path / "none"), 1), (1, 32, 32))
