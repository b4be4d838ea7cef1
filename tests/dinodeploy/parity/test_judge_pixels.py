"""The judge of preprocessing: rounding passes at every size, a wrong step does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase
from dinodeploy.parity.judge import judge
from exporters.bundle.golden import load_photo, reference_pixels

Change = Callable[[np.ndarray], np.ndarray]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def passes(size: int, photo: str = "astronaut", change: Change = np.array) -> bool:
    """Whether the pixels of a photograph pass, made from the photograph after `change`."""
    preprocess = Preprocess.from_preset("official", (size, size), MEAN, STD, 16)
    image = load_photo(photo)
    outputs = {"cls": np.ones((1, 4), np.float32)}
    case = GoldenCase("own_size", (image,), reference_pixels(image, preprocess)[None], outputs)

    def prepare(given: np.ndarray, at: tuple[int, int]) -> np.ndarray:
        return preprocess.with_size(*at)(Image.fromarray(change(given)))

    verdict = judge([case], prepare, lambda pixels: outputs, preprocess, "fp32")
    return all(found.passed for found in verdict.measurements if found.output == "pixels")


@pytest.mark.parametrize("size", [112, 224, 256, 320, 480, 640, 672])
@pytest.mark.parametrize("photo", ["astronaut", "retina"])
def test_rounding_passes_at_every_size(size: int, photo: str) -> None:
    """At 320 and 672 a few values are two levels apart: both passes of the resize round differently."""
    assert passes(size, photo)


def blurred(image: np.ndarray) -> np.ndarray:
    """A resize more, as of a decoder's reduced scale."""
    half = Image.fromarray(image).reduce(2)
    return np.asarray(half.resize(image.shape[1::-1], Image.Resampling.BILINEAR))


FAULTS: dict[str, Change] = {
    "one level brighter in a few": lambda image: image + (np.indices(image.shape).sum(0) % 100 < 6),
    "BGR": lambda image: image[..., ::-1],
    "shifted by a pixel": lambda image: np.roll(image, 1, axis=1),
    "blurred": blurred,
    "gamma": lambda image: (255 * (image / 255.0) ** 1.01).round(),
}


@pytest.mark.parametrize("size", [256, 320])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_step_is_rejected(fault: str, size: int) -> None:
    change = FAULTS[fault]
    assert not passes(size, change=lambda image: np.clip(change(image), 0, 255).astype(np.uint8))
