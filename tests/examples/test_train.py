"""examples/04_train.py: train -> checkpoint -> export -> engine -> embed -> search (issue 6)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dinodeploy.bundle import open_bundle

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_from_pictures_to_search(tmp_path: Path) -> None:
    program = [sys.executable, ROOT / "examples" / "04_train.py", "trained", "--iterations", "20"]
    told = subprocess.run(
        program, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert [path.name for path in (tmp_path / "trained" / "run" / "ckpt").iterdir()] == ["19"]
    loss = re.search(r"loss: ([\d.]+) at first, ([\d.]+) at last", told.stdout)
    assert loss
    assert float(loss[2]) < float(loss[1])
    found = re.search(r"the nearest picture is of the same class: ([\d.]+)% of 360", told.stdout)
    assert found
    assert 0 < float(found[1]) < 100
    manifest = open_bundle(tmp_path / "trained" / "bundle").manifest
    model = manifest.model
    assert (model.arch, model.embed_dim, model.depth, model.patch_size) == ("custom", 128, 4, 8)
    assert manifest.preprocess.mean == (0.5, 0.5, 0.5)
