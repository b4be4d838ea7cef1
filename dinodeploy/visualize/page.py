"""One HTML page of images and maps (template `pages/visualize.html`); it works from a file, offline.

It holds images as JPEG, maps as PNG with one pixel per patch, and features as int8, at most 256 numbers per
patch. Needs the extra `pages`. Shapes: h w patch grid, D embed_dim, K kept numbers of a feature.
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
from dinodeploy.visualize.look import Look, shrink
from dinodeploy.visualize.maps import SCALE, Layers

IMAGE_SIDE = 768  # pixels of the long side
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
    data = {
        "scale": SCALE,
        "hint": HINT,
        "blocks": what == "foreground",
        "images": [_image(*each) for each in zip(looks, maps, vectors, strict=True)],
    }
    return render_page(
        "visualize",
        heading=TITLES[what],
        model=model,
        words=words[:1].upper() + words[1:],
        layers=[name for name, _ in maps[0]],
        data=data,
    )


def _image(look: Look, layers: Layers, vectors: FloatArray) -> dict[str, Any]:
    shown = shrink(look.image, IMAGE_SIDE)
    return {
        "name": printable(Path(look.id).name),
        "size": shown.size,
        "rows": look.grid[0],
        "columns": look.grid[1],
        "width": vectors.shape[-1],
        "features": base64.b64encode(to_int8(vectors).tobytes()).decode(),
        "image": jpeg_uri(shown, quality=85),
        "layers": [_png_uri(colours) for _, colours in layers],
    }


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
