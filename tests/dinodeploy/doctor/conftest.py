"""Machines to examine: a folder instead of `/`, and no GPU unless one is simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.dinodeploy.backends.gpu_machine import no_gpu

WriteRoot = Callable[[dict[str, str]], Path]


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with no_gpu(monkeypatch, tmp_path):
        yield


@pytest.fixture
def write_root(tmp_path: Path) -> WriteRoot:
    """`write_root({"etc/nv_tegra_release": "…"})` -> a folder to examine instead of `/`."""

    def write(files: dict[str, str]) -> Path:
        root = tmp_path / "root"
        root.mkdir()
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root

    return write
