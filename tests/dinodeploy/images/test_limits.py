"""Limits of what may be decoded."""

from __future__ import annotations

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.images.limits import BYTES_PER_PIXEL, DEFAULT_LIMITS, MAX_PIXELS, MAX_REDUCED, ImageLimits


def test_one_number_is_the_limit_of_every_format() -> None:
    assert ImageLimits.of(None) == DEFAULT_LIMITS == ImageLimits(MAX_PIXELS, MAX_REDUCED)
    limits = ImageLimits.of(150_000_000)
    assert (limits.max_pixels, limits.max_reduced) == (150_000_000, 150_000_000)


def test_memory_grows_with_the_limit_and_never_shrinks_below_the_default() -> None:
    assert DEFAULT_LIMITS.memory == BYTES_PER_PIXEL * MAX_PIXELS
    assert ImageLimits.of(10).memory == DEFAULT_LIMITS.memory
    assert ImageLimits.of(2 * MAX_PIXELS).memory == 2 * BYTES_PER_PIXEL * MAX_PIXELS
    assert ImageLimits(max_pixels=None).memory is None


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9"])
def test_a_limit_is_a_whole_number_above_zero(value: object) -> None:
    for name in ("max_pixels", "max_reduced", "max_scans"):
        with pytest.raises(MisuseError, match=f"{name.replace('_', ' ')} is .*; wanted a whole number, at"):
            ImageLimits(**{name: value})  # type: ignore[arg-type]
