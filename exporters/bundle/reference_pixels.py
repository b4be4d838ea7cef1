"""The reference's preprocessing, written with torch: what a bundle's golden pixels are made with.

The runtime preprocesses with Pillow and numpy; this is the other side of that comparison, so it shares
nothing with it but the table of presets. torchvision's v2 transforms are `interpolate` underneath, on
bytes or floats; tests hold this file against torchvision, transformers and timm themselves.

Shapes: h w the photograph's size, H W the input's.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dinodeploy.images.preprocess import Preprocess


def reference_pixels(photo: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """Photograph [h,w,3] -> normalised float32 [3,H,W], as the preset's own reference makes it."""
    steps = preprocess.steps
    size = preprocess.target_size(photo.shape[1], photo.shape[0])
    if steps.fit == "short-side-crop":
        grey = _short_side_crop(photo, size, float(steps.resize_ratio))
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
