"""Real photographs, read from installed packages: nothing is downloaded.

scikit-image and scikit-learn carry them inside their wheels. They differ in kind (people, an animal, still
life, sky, a medical image, an indoor stereo pair, architecture) and in shape, from 640x427 to 1411x1411.
Shapes: B photographs, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # torch is slow to load, and some of the users of this file need none
    from torch import Tensor

# name -> (package, file inside it)
PHOTOGRAPHS: dict[str, tuple[str, str]] = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg"),
    "retina": ("skimage", "data/retina.jpg"),
    "motorcycle_left": ("skimage", "data/motorcycle_left.png"),
    "motorcycle_right": ("skimage", "data/motorcycle_right.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def photograph(name: str) -> Image.Image:
    """One photograph, RGB, at its own size. Raises KeyError for an unknown name."""
    package, file = PHOTOGRAPHS[name]
    spec = find_spec(package)  # finds without importing
    assert spec is not None, f"{package} is not installed"
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / file) as image:
        return image.convert("RGB")


def pixels(names: Sequence[str], height: int, width: int) -> Tensor:
    """Photographs stretched to [B,3,H,W], float32, normalised with ImageNet's mean and std."""
    import torch

    resized = [photograph(name).resize((width, height), Image.Resampling.BICUBIC) for name in names]
    x_BHWC = np.stack([np.asarray(image) for image in resized]) / 255.0
    normalised = torch.from_numpy((x_BHWC - IMAGENET_MEAN) / IMAGENET_STD)
    return normalised.permute(0, 3, 1, 2).float().contiguous()
