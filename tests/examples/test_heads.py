"""The examples of heads, run as a user would, with a small checkpoint of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dinodeploy.bundle import open_bundle
from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_checkpoint(random_checkpoint(tiny_config(depth=4)), "official", path)
    return path


def run_example(name: str, *arguments: object) -> str:
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_custom_head(weights: Path, tmp_path: Path) -> None:
    out = run_example("05_custom_head.py", tmp_path, "--weights", weights)
    assert "judged, passed" in out
    head = open_bundle(tmp_path / "likeness").manifest.head
    assert head is not None
    assert (head.kind, head.outputs) == ("Likeness", ("likeness", "likest"))
    rows = [list(map(float, line.split()[1:])) for line in out.splitlines()[-3:]]
    assert len(rows) == 3
    assert all(0 < value <= 1.001 for row in rows for value in row)


def test_multiscale_features(weights: Path, tmp_path: Path) -> None:
    out = run_example(
        "08_multiscale_features.py", tmp_path / "b", "--weights", weights, "--blocks", "0,1,2,3"
    )
    assert "[1, 128, 64, 64]" in out
    assert "level_4  [1, 128, 120, 160]" in out
    assert "level_32 [1, 128, 15, 20]" in out
