"""One policy for depth, transparency and colour spaces."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import ImageError
from dinodeploy.images.colours import to_rgb


def test_rgb_is_not_copied() -> None:
    image = Image.new("RGB", (2, 2))
    assert to_rgb(image) is image


def test_floats_are_refused() -> None:
    with pytest.raises(ImageError, match="floating-point pixels have no known white level"):
        to_rgb(Image.fromarray(np.ones((2, 2), np.float32)))
