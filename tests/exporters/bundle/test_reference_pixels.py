"""The exporters' reference preprocessing against the libraries it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.images.preprocess import Preprocess
from dinov3_ref.torchvision_shim import import_torchvision
from exporters.bundle.golden import CASES, load_photo
from exporters.bundle.reference_pixels import reference_pixels
from tests.support.photographs import IMAGENET_MEAN, IMAGENET_STD

PHOTOS = sorted({photo for _, photos, _ in CASES for photo in photos})
ROUNDING = 1e-6  # of normalised values: the same bytes, scaled by differently grouped float32 products


@pytest.mark.parametrize("size", [(256, 256), (192, 320), (320, 176)])
def test_official_is_torchvisions_v2(size: tuple[int, int]) -> None:
    import_torchvision()
    import torch
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(size, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ]
    )
    for photo in PHOTOS:
        image = load_photo(photo)
        got = reference_pixels(image, Preprocess.from_preset("official", size, IMAGENET_MEAN, IMAGENET_STD))
        np.testing.assert_allclose(got, transform(image).numpy(), atol=ROUNDING)


@pytest.mark.parametrize("size", [224, 336])
def test_eval_is_torchvisions_short_side_and_centre_crop(size: int) -> None:
    import_torchvision()
    import torch
    from PIL import Image
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.Resize(int(256 * size / 224), interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ]
    )
    for photo in PHOTOS:
        image = load_photo(photo)
        got = reference_pixels(
            image, Preprocess.from_preset("eval", (size, size), IMAGENET_MEAN, IMAGENET_STD)
        )
        np.testing.assert_allclose(got, transform(Image.fromarray(image)).numpy(), atol=ROUNDING)


def test_hf_is_transformers_own_processor() -> None:
    import_torchvision()
    from transformers import DINOv3ViTImageProcessor

    processor = DINOv3ViTImageProcessor(size={"height": 224, "width": 224})
    for photo in PHOTOS:
        image = load_photo(photo)
        wanted = processor(images=image, return_tensors="np")["pixel_values"][0]
        got = reference_pixels(image, Preprocess.from_preset("hf", None, IMAGENET_MEAN, IMAGENET_STD))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
