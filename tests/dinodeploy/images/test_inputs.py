"""Arrays of other libraries reach the engine as they lie in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dinodeploy import MisuseError
from dinodeploy.images.inputs import as_pixels
from dinodeploy.images.preprocess import Preprocess

STEPS = Preprocess("official", 16, 32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
BYTES = STEPS.with_dtype("uint8")


class Speaks:
    """An array of a library that knows DLPack and nothing of numpy."""

    def __init__(self, array: np.ndarray[Any, Any], device: int = 1) -> None:
        self.array = array
        self.device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__()


def test_nothing_is_copied() -> None:
    pixels = np.zeros((1, 3, 16, 32), np.float32)
    tensor = torch.zeros(1, 3, 16, 32)
    assert as_pixels(pixels, STEPS) is pixels
    assert np.shares_memory(as_pixels(Speaks(pixels), STEPS), pixels)
    assert as_pixels(tensor, STEPS).ctypes.data == tensor.data_ptr()


def test_what_is_not_contiguous_is_made_so() -> None:
    taken = as_pixels(torch.zeros(1, 16, 32, 3).permute(0, 3, 1, 2), STEPS)
    assert taken.flags.c_contiguous
    assert taken.shape == (1, 3, 16, 32)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (Speaks(np.zeros((1, 3, 16, 16), np.float32), device=2), "pixels are on device 0 of DLPack type 2"),
        (torch.zeros(1, 3, 16, 16, requires_grad=True), "pixels cannot be shared by DLPack"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.float64), "pixels are float64; wanted float32"),
        (torch.zeros(3, 16, 16), r"pixels have shape \[3, 16, 16\]; wanted \[B,3,H,W\]"),
        (torch.zeros(1, 3, 16, 17), "pixels are 16x17; wanted multiples of the patch size 16"),
    ],
)
def test_what_cannot_be_taken(pixels: Any, message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        as_pixels(pixels, STEPS)


def test_a_model_may_need_larger_images() -> None:
    pixels = np.zeros((1, 3, 64, 32), np.float32)
    assert as_pixels(pixels, STEPS, 32) is pixels
    with pytest.raises(MisuseError, match="pixels are 64x32; this model takes 48 or more on both sides"):
        as_pixels(pixels, STEPS, 48)


def test_bytes_are_taken_as_they_are() -> None:
    pixels = np.zeros((2, 16, 32, 3), np.uint8)
    assert as_pixels(pixels, BYTES) is pixels
    assert as_pixels(torch.from_numpy(pixels), BYTES).ctypes.data == pixels.ctypes.data


def test_normalised_grey_levels_become_the_same_bytes() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 3), np.uint8)
    taken = as_pixels(BYTES.normalised(grey), BYTES)
    assert taken.flags.c_contiguous
    np.testing.assert_array_equal(taken, grey)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 3, 16, 32), np.uint8), r"\[1, 3, 16, 32\]; wanted uint8 \[B,H,W,3\]"),
        (np.zeros((16, 32, 3), np.uint8), r"\[16, 32, 3\]; wanted uint8 \[B,H,W,3\]"),
        (np.zeros((1, 16, 17, 3), np.uint8), "pixels are 16x17; wanted multiples of the patch size 16"),
        (np.zeros((1, 3, 16, 32), np.float64), "pixels are float64; wanted uint8, or float32, normalised"),
        (np.full((1, 3, 16, 32), 0.01, np.float32), r"a pixel is 102.6375 of .*; wanted whole numbers"),
        (np.full((1, 3, 16, 32), 4.0, np.float32), r"a pixel is 331.5 of 0 to 255"),
        (np.full((1, 3, 16, 32), np.nan, np.float32), r"a pixel is nan of 0 to 255"),
    ],
)
def test_what_cannot_be_bytes(pixels: Any, message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        as_pixels(pixels, BYTES)


def test_a_bundle_of_floats_takes_no_bytes() -> None:
    with pytest.raises(MisuseError, match="pixels are uint8; wanted float32, normalised"):
        as_pixels(np.zeros((1, 16, 32, 3), np.uint8), STEPS)
