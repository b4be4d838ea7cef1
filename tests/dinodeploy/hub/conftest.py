"""A hub of this test, with a token that may write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub.server import WRITER, Hub, serve_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with serve_hub(tmp_path, monkeypatch) as hub:
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub
