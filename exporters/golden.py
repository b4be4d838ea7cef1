"""Make golden cases: shipped photographs through the fp32 reference (`dinodeploy/golden.py` reads them).

Cases differ in batch and size, off-square both ways, so that a graph that is right at one size only, or
swaps height and width, or mixes up a batch, cannot pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dinodeploy.golden import GoldenCase, Trace, at_size
from dinodeploy.preprocess import Preprocess
from dinov3_ref.models import ConvNeXt, DinoVisionTransformer
from exporters.reference_pixels import reference_pixels
from exporters.trace import TokenOutputs

# name, photographs, grid of patches (None: the bundle's own input size)
CASES: tuple[tuple[str, tuple[str, ...], tuple[int, int] | None], ...] = (
    ("own_size", ("astronaut", "chelsea"), None),
    ("tall", ("coffee", "retina"), (16, 9)),
    ("wide", ("rocket", "hubble_deep_field", "astronaut"), (7, 12)),
)
TRACED_CASE = "wide"  # the smallest
TRACED_PATCHES = 12  # spread over the grid; with CLS and storage tokens 1.7 MB of a ViT-L's stream


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
        made = _run_case(module, name, photos, at_size(preprocess, size))
        if name == TRACED_CASE and not isinstance(module.model, ConvNeXt):  # it has no stream of tokens
            made[0] = replace(made[0], trace=trace_stream(module.model, made[0].pixels[:1]))
        cases += made
    return cases


def trace_stream(model: DinoVisionTransformer, pixels: NDArray[np.float32]) -> Trace:
    """The residual stream of one photograph [1,3,H,W] at CLS, every storage token and some patches."""
    with torch.inference_mode():
        embedded, (h, w) = model.prepare_tokens_with_masks(torch.from_numpy(pixels))
        places = token_places(embedded.shape[1] - h * w, h, w)
        blocks = [after[0][:, places] for after in model.run_blocks([embedded], [(h, w)])]
        return Trace(
            tokens=places.numpy().astype(np.int32),
            embedded=embedded[:, places].float().numpy(),
            blocks=torch.stack(blocks).float().numpy(),
        )


def token_places(prefix: int, h: int, w: int) -> torch.Tensor:
    """Indices of the prefix tokens and of patches a golden-section step apart: every row and column region.

    Evenly spaced ones would line up with the grid and see a few columns only.
    """
    count = h * w
    step = round(count * (5**0.5 - 1) / 2)
    while np.gcd(step, count) != 1:
        step += 1
    patches = sorted((index * step) % count for index in range(min(TRACED_PATCHES, count)))
    return torch.tensor([*range(prefix), *(prefix + patch for patch in patches)])


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
