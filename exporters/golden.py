"""Make golden cases: shipped photographs through the fp32 reference (`dinodeploy/golden.py` reads them).

Cases differ in batch and size, off-square both ways, so that a graph that is right at one size only, or
swaps height and width, or mixes up a batch, cannot pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dinodeploy.golden import GoldenCase, at_size
from dinodeploy.preprocess import Preprocess
from exporters.reference_pixels import reference_pixels
from exporters.trace import TokenOutputs

# name, photographs, grid of patches (None: the bundle's own input size)
CASES: tuple[tuple[str, tuple[str, ...], tuple[int, int] | None], ...] = (
    ("own_size", ("astronaut", "chelsea"), None),
    ("tall", ("coffee", "retina"), (16, 9)),
    ("wide", ("rocket", "hubble_deep_field", "astronaut"), (7, 12)),
)


def load_photo(name: str) -> NDArray[np.uint8]:
    """A shipped photograph, [h,w,3]; `photos/PROVENANCE.md` says where they come from."""
    with resources.files("exporters").joinpath(f"photos/{name}.jpg").open("rb") as file:
        return np.array(Image.open(file).convert("RGB"))


def make_golden(module: TokenOutputs, preprocess: Preprocess) -> list[GoldenCase]:
    """Run the reference on every case. `module` holds the model as loaded: no seams, nothing folded."""
    cases = []
    for name, photos, grid in CASES:
        p = preprocess.patch_size
        size = (preprocess.height, preprocess.width) if grid is None else (grid[0] * p, grid[1] * p)
        cases += _run_case(module, name, photos, at_size(preprocess, size))
    return cases


def _run_case(
    module: TokenOutputs, name: str, photos: Sequence[str], preprocess: Preprocess
) -> list[GoldenCase]:
    """One case, or one a photograph where the preset gives each its own size."""
    images = [load_photo(photo) for photo in photos]
    pixels = [reference_pixels(image, preprocess) for image in images]
    if any(array.shape != pixels[0].shape for array in pixels):
        return [
            case for photo in photos for case in _run_case(module, f"{name}_{photo}", [photo], preprocess)
        ]
    batch = np.stack(pixels)
    with torch.inference_mode():
        outputs = module(torch.from_numpy(batch))
    named = {key: value.numpy() for key, value in zip(module.output_names, outputs, strict=True)}
    return [GoldenCase(name, tuple(images), batch, named)]
