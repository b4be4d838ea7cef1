"""What a decoding process makes of one image: the same as a thread does."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.errors import ImageError, UnavailableError
from dinodeploy.images.limits import DEFAULT_LIMITS
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.decode import decode_ahead
from dinodeploy.pipeline.processes.messages import Setup
from dinodeploy.pipeline.processes.worker import decode_task
from tests.support.fake_engine import HALF, SMALL
from tests.support.images.photographs import photograph


def fail(error: Exception) -> Any:
    raise error


def setup_of(preprocess: Preprocess) -> tuple[Setup, Any]:
    shape, dtype = preprocess.largest_input
    fixed = preprocess.steps.fit != "keep-aspect"
    return Setup(preprocess, DEFAULT_LIMITS, 0, 0, 1, 1, shape, dtype), np.full(
        shape if fixed else int(np.prod(shape)), 9, dtype
    )


@pytest.mark.parametrize("preset", ["official", "hf", "timm", "keep-aspect", "pad"])
def test_pixels_are_those_of_a_thread(tmp_path: Path, preset: str) -> None:
    path = str(tmp_path / "a.jpg")
    photograph("chelsea").save(path)
    steps = Preprocess.from_preset(preset, (32, 32), HALF, HALF)
    setup, slot = setup_of(steps)
    _, width, height, *shape = decode_task(setup, path, slot)
    (wanted,) = decode_ahead([path], steps, 1, 1)
    assert wanted.pixels is not None
    assert (width, height) == wanted.size
    assert tuple(shape) == wanted.pixels.shape
    np.testing.assert_array_equal(slot.reshape(-1)[: np.prod(shape)].reshape(shape), wanted.pixels)


def test_reasons_are_those_of_a_thread(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    setup, slot = setup_of(SMALL)
    for path in map(str, (tmp_path / "a.jpg", tmp_path / "absent.jpg", tmp_path)):
        (wanted,) = decode_ahead([path], SMALL, 1, 1)
        assert decode_task(setup, path, slot)[1:] == [wanted.reason]
    for error in (OSError("the network is gone"), MemoryError("too large")):
        assert decode_task(setup, partial(fail, error), slot)[1:] == [f"cannot be read: {error}"]
    assert decode_task(setup, partial(fail, ImageError("'x': gone")), slot)[1:] == ["'x': gone"]


def test_what_is_no_fault_of_the_image_has_a_name() -> None:
    setup, slot = setup_of(SMALL)
    assert decode_task(setup, partial(fail, UnavailableError("no av")), slot)[1:] == [
        "no av",
        "UnavailableError",
    ]
