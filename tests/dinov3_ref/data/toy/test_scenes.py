"""The toy sets for segmentation and depth: seeded, in the layouts that the evaluations read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinov3_ref.data.datasets.pairs import open_pairs
from dinov3_ref.data.toy.scenes import main, write_scenes

SIZES = {"train": 4, "test": 2, "side": 48}


def test_the_layouts_are_read(tmp_path: Path) -> None:
    assert write_scenes(tmp_path / "toy", **SIZES) == {"ade": 6, "nyu": 6}
    ade = open_pairs(f"ADE20K:split=TRAIN:root={tmp_path}/toy/ade", "segmentation")
    ids = ade.map(0)
    assert (len(ade), ids.shape) == (4, (48, 48))
    assert (ids[:2] == 255).all()
    assert len(np.unique(ids[2:-2, 2:-2])) == 2
    nyu = open_pairs(f"NYU:split=VAL:root={tmp_path}/toy/nyu", "depth")
    depth = nyu.map(1)
    assert (len(nyu), depth.shape) == (2, (48, 64))
    assert depth[-1, 0] == 1000
    assert (np.diff(depth[:, 0]) < 0).all()


def test_a_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_scenes(tmp_path / name, **SIZES, seed=seed)
    path = "ade/images/training/ADE_training_00000001.jpg"
    a, b, c = ((tmp_path / name / path).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path / "new"), "--side", "8"]) == 2
    taken, small = capsys.readouterr().err.splitlines()
    assert "exists already" in taken
    assert "wanted at least 1 image and 32 px" in small
