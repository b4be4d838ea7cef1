"""The examples of heads, run as a user would, with a small checkpoint of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy.bundle.bundle import open_bundle
from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from tests.support.processes.run_example import run_example
from tests.support.tiny_models import tiny_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_checkpoint(random_checkpoint(tiny_config(depth=4)), "official", path)
    return path


@pytest.mark.slow
def test_custom_head(weights: Path, tmp_path: Path) -> None:
    out = run_example("05_custom_head.py", tmp_path, "--weights", weights, cwd=tmp_path)
    assert "judged, passed" in out
    head = open_bundle(tmp_path / "similarity").manifest.head
    assert head is not None
    assert (head.kind, head.outputs) == ("Similarity", ("similarity", "best"))
    rows = [list(map(float, line.split()[1:])) for line in out.splitlines()[-3:]]
    assert len(rows) == 3
    assert all(0 < value <= 1.001 for row in rows for value in row)


@pytest.mark.slow
def test_multiscale_features(weights: Path, tmp_path: Path) -> None:
    out = run_example(
        "08_multiscale_features.py", tmp_path / "b", "--weights", weights, "--blocks", "0,1,2,3", cwd=tmp_path
    )
    assert "[1, 128, 64, 64]" in out
    assert "level_4  [1, 128, 120, 160]" in out
    assert "level_32 [1, 128, 15, 20]" in out
