"""One HTML page of images and maps (template `pages/visualize.html`); it works from a file, offline.

It holds images as JPEG, maps as PNG with one pixel per patch, and features as int8, at most 256 numbers per
patch; of many images only the first. Needs the extra `pages`.
Shapes: h w patch grid, D embed_dim, K kept numbers of a feature.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinodeploy.arrays import ByteArray, FloatArray
from dinodeploy.errors import printable
from dinodeploy.pages import jpeg_uri, render_page
from dinodeploy.visualize.components import strongest_first
from dinodeploy.visualize.heat import SCALE
from dinodeploy.visualize.look import Look, shrink
from dinodeploy.visualize.maps import FOREGROUND, Layer, Layers

IMAGE_SIDE = 768  # pixels of the long side
PAGE_BYTES = 64 * 2**20  # of features and images on a page, about; a browser opens that in seconds
KEPT = 256  # numbers per patch; more are projected onto the strongest directions of all images
HINT = "Click a patch: every patch of every image shows how similar it is."
TITLES = {
    "pca": "Patch features as colours",
    "attention": "What CLS attends to",
    "similarity": "Patches like this one",
    "foreground": "Foreground",
}


def render_maps(what: str, looks: Sequence[Look], maps: Sequence[Layers], words: str, model: str) -> str:
    """The HTML document. `words` says what the maps show, `model` which model made them."""
    vectors = keep_strongest([look.patches for look in looks])
    images: list[dict[str, Any]] = []
    left = PAGE_BYTES
    for each in zip(looks, maps, vectors, strict=True):
        image = _image(*each)
        left -= len(image["features"]) + len(image["image"])
        if left < 0 and images:
            break
        images.append(image)
    more = f" The first {len(images)} of {len(looks)} images are shown." if len(images) < len(looks) else ""
    data = {
        "scale": SCALE,
        "unit": next((layer.range.unit for layer in maps[0] if layer.range), ""),
        "hint": HINT,
        "is_common": len({image["layers"][0]["ends"] for image in images}) == 1,  # one scale for all
        "dims": what == FOREGROUND,
        "images": images,
    }
    return render_page(
        "visualize",
        heading=TITLES[what],
        words=f"{words[:1].upper()}{words[1:]}.{more}",
        model=model,
        layers=[layer.name for layer in maps[0]],
        data=data,
    )


def _image(look: Look, layers: Layers, vectors: FloatArray) -> dict[str, Any]:
    shown = shrink(look.image, IMAGE_SIDE)
    return {
        "id": printable(look.id),
        "name": printable(Path(look.id).name),
        "size": shown.size,
        "rows": look.grid[0],
        "columns": look.grid[1],
        "width": vectors.shape[-1],
        "features": base64.b64encode(to_int8(vectors).tobytes()).decode(),
        "image": jpeg_uri(shown, quality=85),
        "layers": [_layer(layer) for layer in layers],
        "mark": next((layer.mark for layer in layers if layer.mark), None),
    }


def _layer(layer: Layer) -> dict[str, Any]:
    """A layer for the script: its colours, and the values at both ends of its scale as text."""
    ends = layer.range.ends if layer.range else None
    return {"map": _png_uri(_shade(layer) if layer.name == FOREGROUND else layer.colours), "ends": ends}


def _shade(layer: Layer) -> ByteArray:
    """Black over the background, nothing over the foreground [h,w,4]."""
    shade = np.zeros((*layer.colours.shape[:2], 4), np.uint8)
    shade[..., 3] = 255 - layer.colours[..., 0]
    return shade


def keep_strongest(maps: Sequence[FloatArray]) -> list[FloatArray]:
    """Unit features [h,w,D] -> [h,w,K]: all D numbers, or their projection that keeps cosines best.

    The projection is onto the strongest directions of all patches about zero, not about their mean, since
    a cosine is about zero.
    """
    units = []
    for patches in maps:
        lengths = np.linalg.norm(patches, axis=-1, keepdims=True)
        units.append(np.divide(patches, lengths, out=np.zeros_like(patches), where=lengths > 0))
    D = maps[0].shape[-1]
    if D <= KEPT:
        return units
    moments = np.zeros((D, D), np.float32)
    for unit in units:
        rows = unit.reshape(-1, D)
        moments += rows.T @ rows
    directions = strongest_first(moments)[1][:, :KEPT]
    return [unit @ directions for unit in units]


def to_int8(vectors: FloatArray) -> NDArray[np.int8]:
    """[h,w,K], each patch scaled so that its largest number is 127: directions stay."""
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    scaled = np.divide(127 * vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    return np.round(scaled).astype(np.int8)


def _png_uri(colours: ByteArray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
