"""Calibration images: drawn by the seed; unreadable ones are left out with a note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess
from exporters.precision.quantization.images import Calibration, calibration_pixels
from tests.support.images.photographs import photograph

PHOTOS = ("astronaut", "coffee", "china", "flower")
PREPROCESS = Preprocess.from_preset("official", None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 16)


def test_calibration_folders(tmp_path: Path) -> None:
    for index, name in enumerate(PHOTOS):
        photograph(name).resize((80, 64)).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    arrays, notes = calibration_pixels(Calibration(tmp_path), PREPROCESS)
    assert len(arrays) == 4
    assert any("1 of 5 images" in note for note in notes)
    assert any("calibrated on 4 images" in note for note in notes)
    some = [calibration_pixels(Calibration(tmp_path, 2, seed), PREPROCESS)[0] for seed in (0, 0, 1, 2, 3)]
    assert np.array_equal(some[0], some[1])
    assert any(not np.array_equal(some[0], other) for other in some[2:])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"")
    with pytest.raises(MisuseError, match="none of 1 images can be read"):
        calibration_pixels(Calibration(tmp_path / "bad"), PREPROCESS)
    with pytest.raises(MisuseError, match="calibration-images 0"):
        Calibration(limit=0)
