"""Windows against transformers' `EomtImageProcessor` with `do_split_image`."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.images.windows import Windows

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 64


def windows() -> Windows:
    return Windows.of(Preprocess.from_preset("official", (SIDE, SIDE), MEAN, STD))


@pytest.mark.parametrize("size", [(200, 150), (97, 333), (128, 128), (64, 300), (63, 65), (1000, 64)])
def test_equals_transformers(size: tuple[int, int]) -> None:
    from dinov3_ref.torchvision_shim import import_torchvision

    import_torchvision()
    from transformers import EomtImageProcessor

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    edges = {"shortest_edge": SIDE, "longest_edge": None}
    wanted = EomtImageProcessor(size=edges, do_split_image=True)(image, return_tensors="pt")
    cut = windows().cut(windows()(image))
    assert windows().starts(*size) == tuple(int(offset[1]) for offset in wanted["patch_offsets"])
    grey_levels = np.abs(cut - wanted["pixel_values"].numpy()) * 255 * np.array(STD)[:, None, None]
    assert cut.shape == tuple(wanted["pixel_values"].shape)
    assert grey_levels.max() < 1.01  # measured 1.0000: bytes that are rounded the other way


def test_an_image_of_too_many_windows_is_refused() -> None:
    with pytest.raises(ImageError, match="an image of 65x1 px takes 65 windows; wanted at most 64: crop it"):
        windows().target_size(65, 1)
    assert len(windows().starts(64, 1)) == 64


def test_windows_are_square() -> None:
    wide = Preprocess.from_preset("official", (64, 96), MEAN, STD)
    with pytest.raises(MisuseError, match="input size 64,96: this model reads square windows"):
        Windows.of(wide)
