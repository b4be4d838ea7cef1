"""Golden cases: photographs, the pixels the reference makes of them, and the outputs it gives.

`golden.safetensors` holds for each case, in the order judged:

    <case>/image_<i>    [h,w,3] uint8       the photographs
    <case>/pixels       [B,3,H,W] float32   after the reference's own preprocessing
    <case>/out/<name>   float32             the fp32 reference's outputs

Keeping both photograph and pixels lets the judge blame the right half: a swapped channel or a wrong
mean shows before the engine has run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.errors import BundleError
from dinodeploy.preprocess import Preprocess
from dinodeploy.tensorfile import load_tensors, save_tensors

Floats = NDArray[np.float32]
_KEY = re.compile(
    r"(?P<case>[a-z0-9_]+)/(?:image_(?P<image>\d+)|(?P<pixels>pixels)|out/(?P<output>[a-z0-9_]+))"
)


@dataclass(frozen=True)
class GoldenCase:
    """One batch of photographs of one input size."""

    name: str
    images: tuple[NDArray[np.uint8], ...]
    pixels: Floats
    outputs: dict[str, Floats]

    @property
    def size(self) -> tuple[int, int]:
        """Input height and width in pixels."""
        height, width = self.pixels.shape[2:]
        return height, width


def at_size(preprocess: Preprocess, size: tuple[int, int]) -> Preprocess:
    """`preprocess` aimed at inputs of `size` (H, W); keep-aspect is aimed by its short side alone."""
    height, width = size
    if preprocess.steps.fit == "keep-aspect":
        height = width = min(size)
    return preprocess.with_size(height, width)


def save_golden(cases: Sequence[GoldenCase], path: Path) -> None:
    tensors: dict[str, NDArray[Any]] = {}
    for case in cases:
        for index, image in enumerate(case.images):
            tensors[f"{case.name}/image_{index}"] = image
        tensors[f"{case.name}/pixels"] = case.pixels
        for name, output in case.outputs.items():
            tensors[f"{case.name}/out/{name}"] = output
    save_tensors(path, tensors)


def load_golden(path: Path) -> list[GoldenCase]:
    """Raises BundleError when the file holds anything but whole cases."""
    images: dict[str, dict[int, NDArray[np.uint8]]] = {}
    pixels: dict[str, Floats] = {}
    outputs: dict[str, dict[str, Floats]] = {}
    for key, tensor in load_tensors(path).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise BundleError(f"{path}: tensor {key!r} belongs to no golden case")
        case = match["case"]
        if match["image"]:
            images.setdefault(case, {})[int(match["image"])] = tensor
        elif match["pixels"]:
            pixels[case] = tensor
        else:
            outputs.setdefault(case, {})[match["output"]] = tensor
    if not pixels or not pixels.keys() == images.keys() == outputs.keys():
        raise BundleError(
            f"{path}: incomplete; wanted images, pixels and outputs for every case, at least one"
        )
    return [
        GoldenCase(name, tuple(images[name][i] for i in sorted(images[name])), pixels[name], outputs[name])
        for name in sorted(pixels)
    ]
