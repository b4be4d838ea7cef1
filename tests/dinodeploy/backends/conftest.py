"""Machines for the tests of backends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dinodeploy.hardware import devices as machine


@pytest.fixture(autouse=True)
def forget_the_gpu() -> Iterator[None]:
    yield
    machine.find_gpu.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.dinodeploy.backends.gpu_machine import pretend_gpu

    pretend_gpu(monkeypatch, tmp_path)
