"""examples/04_train.py: train -> checkpoint -> export -> engine -> embed -> search."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dinodeploy.bundle.bundle import open_bundle
from tests.support.processes.run_example import run_example


@pytest.mark.slow
def test_from_images_to_search(tmp_path: Path) -> None:
    told = run_example("04_train.py", "trained", "--iterations", 20, cwd=tmp_path)
    assert [path.name for path in (tmp_path / "trained" / "run" / "ckpt").iterdir()] == ["19"]
    loss = re.search(r"loss: ([\d.]+) at first, ([\d.]+) at last", told)
    assert loss
    assert float(loss[2]) < float(loss[1])
    found = re.search(r"the nearest image is of the same class: ([\d.]+)% of 360", told)
    assert found
    assert 0 < float(found[1]) < 100
    manifest = open_bundle(tmp_path / "trained" / "bundle").manifest
    model = manifest.model
    assert (model.arch, model.embed_dim, model.depth, model.patch_size) == ("custom", 128, 4, 8)
    assert manifest.preprocess.mean == (0.5, 0.5, 0.5)
