"""Make golden cases: run shipped photographs through the fp32 reference.

`dinodeploy/parity/golden.py` reads them.

Cases differ in batch and size, off-square both ways, so that a graph that is right at one size only, or
swaps height and width, or mixes up a batch, cannot pass.

The reference's preprocessing is written with torch: it shares only the table of presets with the runtime's,
which uses Pillow and numpy and is compared with it. torchvision's v2 transforms are `interpolate` underneath,
on bytes or floats; tests hold it against torchvision, transformers and timm themselves.

Shapes: h w the photograph's size, H W the input's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import resources
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase, Trace, at_size
from dinov3_ref.models import Backbone, ConvNeXt, DinoVisionTransformer
from exporters.trace.trace import TokenOutputs

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


Cases = Sequence[tuple[str, tuple[str, ...], tuple[int, int] | None]]


class Reference(Protocol):
    """A model whose outputs have names: pixels [B,3,H,W] -> tensors in the order of `output_names`."""

    output_names: tuple[str, ...]

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]: ...


def make_golden(module: Reference, preprocess: Preprocess, cases: Cases = CASES) -> list[GoldenCase]:
    """Run the reference on every case. `module` holds the model as loaded: no custom ops, nothing folded.

    Of a backbone alone, one case also holds its residual stream.
    """
    made = []
    for name, photos, grid in cases:
        p = preprocess.patch_size
        size = (preprocess.height, preprocess.width) if grid is None else (grid[0] * p, grid[1] * p)
        found = _run_case(module, name, photos, at_size(preprocess, size))
        if name == TRACED_CASE and isinstance(module, TokenOutputs):
            found[0] = replace(found[0], traces=trace_stream(module.model, found[0].pixels[:1]))
        made += found
    return made


def trace_stream(model: Backbone, pixels: NDArray[np.float32]) -> tuple[Trace, ...]:
    """The residual stream of one photograph [1,3,H,W]: of a ViT's blocks, or of each stage of a ConvNeXt."""
    if isinstance(model, ConvNeXt):
        return _trace_stages(model, pixels)
    return (_trace_blocks(model, pixels),)


def _trace_blocks(model: DinoVisionTransformer, pixels: NDArray[np.float32]) -> Trace:
    """At CLS, every storage token and some patches."""
    with torch.inference_mode():
        embedded, (h, w) = model.prepare_tokens_with_masks(torch.from_numpy(pixels))
        places = token_places(embedded.shape[1] - h * w, h, w)
        blocks = [after[0][:, places] for after in model.run_blocks([embedded], [(h, w)])]
        return _as_trace(places, embedded[:, places], blocks)


def _trace_stages(model: ConvNeXt, pixels: NDArray[np.float32]) -> tuple[Trace, ...]:
    """At some places of each stage's map.

    Nothing where a user's own block makes a map of another size: then there is no one stream to follow.
    """
    stages: list[list[Tensor]] = []  # maps [1,C,h,w]: as they enter, then after each block

    def enter(_: nn.Module, __: object, x_BChw: Tensor) -> None:
        stages.append([x_BChw])

    def leave(_: nn.Module, __: object, x_BChw: Tensor) -> None:
        stages[-1].append(x_BChw)

    with ExitStack() as hooks, torch.inference_mode():
        for part in model.downsample_layers:
            hooks.enter_context(part.register_forward_hook(enter))
        for block in (block for stage in model.stages for block in stage.children()):
            hooks.enter_context(block.register_forward_hook(leave))
        model.run_stages(torch.from_numpy(pixels))
    if any(len({x.shape for x in maps}) > 1 for maps in stages):
        return ()
    traces = []
    for maps in stages:
        places = token_places(0, *maps[0].shape[2:])
        entering, *blocks = (x_BChw.flatten(2)[:, :, places].transpose(1, 2) for x_BChw in maps)
        traces.append(_as_trace(places, entering, blocks))
    return tuple(traces)


def _as_trace(places: Tensor, entering: Tensor, blocks: Sequence[Tensor]) -> Trace:
    """Places [T], the stream there before the first block [1,T,D] and after each."""
    return Trace(
        tokens=places.numpy().astype(np.int32),
        embedded=entering.float().contiguous().numpy(),
        blocks=torch.stack(list(blocks)).float().numpy(),
    )


def token_places(prefix: int, h: int, w: int) -> Tensor:
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
    module: Reference, name: str, photos: Sequence[str], preprocess: Preprocess
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


def reference_pixels(photo: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """Photograph [h,w,3] -> normalised float32 [3,H,W], as the preset's own reference makes it."""
    steps = preprocess.steps
    size = preprocess.target_size(photo.shape[1], photo.shape[0])
    if steps.fit == "short-side-crop":
        grey = _short_side_crop(photo, size, float(steps.resize_ratio))
    elif steps.fit == "pad":
        shown = preprocess.shown(photo.shape[1], photo.shape[0])
        grey = _stretch(photo, shown, steps.interpolation, as_float=False)
        grey = F.pad(grey, (0, size[1] - shown[1], 0, size[0] - shown[0]))
    else:
        grey = _stretch(photo, size, steps.interpolation, as_float=steps.dtype == "float32")
    mean = torch.tensor(preprocess.mean, dtype=torch.float32)[:, None, None]
    std = torch.tensor(preprocess.std, dtype=torch.float32)[:, None, None]
    return ((grey / 255.0 - mean) / std).numpy()


def _stretch(photo: NDArray[np.uint8], size: tuple[int, int], mode: str, *, as_float: bool) -> Tensor:
    """torchvision v2's Resize(size, antialias=True): on bytes it rounds to bytes."""
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None]
    image = image.float() if as_float else image
    resized = F.interpolate(image, size=size, mode=mode, antialias=True, align_corners=False)
    return resized[0].float()


def _short_side_crop(photo: NDArray[np.uint8], size: tuple[int, int], ratio: float) -> Tensor:
    """torchvision's Resize(int) and CenterCrop on a PIL image, bicubic, for a square or a rectangle."""
    height, width = size
    scale = max(int(height * ratio) / photo.shape[0], int(width * ratio) / photo.shape[1])
    image = Image.fromarray(photo)
    # the side that decides is exact, the other is cut off to a whole pixel (1e-6: against 255.99999)
    full = int(photo.shape[1] * scale + 1e-6), int(photo.shape[0] * scale + 1e-6)
    image = image.resize(full, Image.Resampling.BICUBIC)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    cut = np.asarray(image.crop((left, top, left + width, top + height)))
    return torch.from_numpy(cut.copy()).permute(2, 0, 1).float()
