"""preprocessor_config.json makes transformers' own image processors do what the bundle does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinov3_ref.torchvision_shim import import_torchvision
from exporters.layouts.processor import image_processor
from tests.support.images.photographs import photograph

MEAN, STD = (0.43, 0.411, 0.296), (0.213, 0.156, 0.143)  # not ImageNet's, which are defaults over there


@pytest.mark.parametrize(
    ("preset", "size"),
    [("official", (96, 160)), ("hf", (160, 96)), ("timm", (128, 128)), ("eval", (112, 112))],
)
def test_pixels_agree(tmp_path: Path, preset: str, size: tuple[int, int]) -> None:
    """Within one grey level for 99.9 % of the pixels: Pillow and torchvision round differently."""
    import_torchvision()
    from transformers import AutoImageProcessor

    preprocess = Preprocess.from_preset(preset, size, MEAN, STD)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(image_processor(preprocess)))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    image = photograph("rocket").resize((600, 400))  # the crop's offset is whole: transformers rounds it down
    got = processor(images=image, return_tensors="np")["pixel_values"][0]
    wanted = preprocess(open_image(image))
    assert got.shape == wanted.shape
    grey_levels = np.abs(got - wanted) * np.array(STD)[:, None, None] * 255
    assert np.percentile(grey_levels, 99.9) <= 1.05
    assert grey_levels.max() <= 2.05


def test_what_transformers_cannot_do() -> None:
    for preset in ("keep-aspect", "pad"):
        with pytest.raises(MisuseError, match="no such image processor"):
            image_processor(Preprocess.from_preset(preset, (256, 256), MEAN, STD))
    with pytest.raises(MisuseError, match="for a square only"):
        image_processor(Preprocess.from_preset("eval", (224, 448), MEAN, STD))
