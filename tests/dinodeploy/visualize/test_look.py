"""Images shrink and never grow."""

from __future__ import annotations

from PIL import Image

from dinodeploy.visualize.look import shrink
from tests.support.images.photographs import photograph


def test_images_shrink_and_never_grow() -> None:
    assert shrink(photograph("retina"), 700).size == (700, 700)
    assert shrink(photograph("coffee"), 300).size == (300, 200)
    assert shrink(photograph("coffee"), 4096) is not None
    assert shrink(Image.new("RGB", (5000, 2)), 100).size == (100, 1)
