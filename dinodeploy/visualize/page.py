"""One HTML page of pictures and maps that needs nothing else: it works from a file, offline.

Pictures are JPEG, maps PNG of one pixel a patch, features int8 (at most 256 numbers a patch), all of them
inside. Shapes: h w patch grid, D embed_dim, K kept numbers of a feature.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinodeploy import __version__
from dinodeploy.arrays import ByteArray, FloatArray
from dinodeploy.visualize.colour import SCALE
from dinodeploy.visualize.look import Look, shrink
from dinodeploy.visualize.maps import Layers
from dinodeploy.visualize.script import SCRIPT
from dinodeploy.visualize.style import CSS

PICTURE_SIDE = 768  # pixels of the long side
KEPT = 256  # numbers a patch; more are projected onto the strongest directions of all pictures
HINT = "Click a patch: every patch of every picture shows how alike it is."
TITLES = {
    "pca": "Patch features as colours",
    "attention": "What CLS attends to",
    "similarity": "Patches like this one",
    "foreground": "Foreground",
}


def render_page(what: str, looks: Sequence[Look], maps: Sequence[Layers], words: str, model: str) -> str:
    """The document. `words` says what the maps show, `model` who made them."""
    vectors = keep_strongest([look.patches for look in looks])
    data = {
        "scale": SCALE,
        "hint": HINT,
        "blocks": what == "foreground",
        "pictures": [_picture(*each) for each in zip(looks, maps, vectors, strict=True)],
    }
    names = [name for name, _ in maps[0]]
    options = "".join(f"<option>{escape(name)}</option>" for name in names)
    figures = "\n".join(_figure(look, item) for look, item in zip(looks, data["pictures"], strict=True))  # type: ignore[call-overload]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(TITLES[what])}: {escape(model)}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{escape(TITLES[what])}</h1>
<p class="lead">{escape(model)}. {escape(words[:1].upper() + words[1:])}.</p>
</header>
<div class="bar"><div>
<label>Picture
<input id="blend" type="range" min="0" max="100" value="70" aria-label="Blend picture and map"> Map</label>
<label{"" if len(names) > 1 else " hidden"}>Shown <select id="layer">{options}</select></label>
<button id="back" type="button" hidden>Back to the map</button>
<span class="scale" id="scale" hidden><span id="low"></span><i></i><span id="high"></span></span>
<p id="status" aria-live="polite"></p>
</div></div>
<main>
{figures}
</main>
<footer>
<p>Keyboard: <kbd>Tab</kbd> to a picture, arrows to a patch, <kbd>Enter</kbd> to compare, <kbd>Esc</kbd>
to go back. Similarities on this page are of features rounded to 8 bits. dinodeploy {escape(__version__)}.</p>
</footer>
<script type="application/json" id="data">{_inside_script(data)}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _figure(look: Look, item: dict[str, Any]) -> str:
    h, w = look.grid
    name, (width, height) = escape(item["name"]), item["size"]
    label = f"{name}, {h} by {w} patches. Arrows move to a patch, Enter compares all to it."
    return (
        f'<figure><canvas width="{width}" height="{height}" tabindex="0" role="application" '
        f'aria-label="{label}"></canvas>'
        f"<figcaption><b>{name}</b><span>{h} × {w} patches</span></figcaption></figure>"
    )


def _picture(look: Look, layers: Layers, vectors: FloatArray) -> dict[str, Any]:
    shown = shrink(look.picture, PICTURE_SIDE)
    return {
        "name": Path(look.id).name,
        "size": shown.size,
        "rows": look.grid[0],
        "columns": look.grid[1],
        "width": vectors.shape[-1],
        "features": base64.b64encode(to_int8(vectors).tobytes()).decode(),
        "picture": _uri(shown, "JPEG", quality=85),
        "layers": [_uri_of(colours) for _, colours in layers],
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
    directions = np.linalg.eigh(moments)[1][:, -KEPT:]
    return [unit @ directions for unit in units]


def to_int8(vectors: FloatArray) -> NDArray[np.int8]:
    """[h,w,K], each patch scaled so that its largest number is 127: directions stay."""
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    scaled = np.divide(127 * vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    return np.round(scaled).astype(np.int8)


def _uri_of(colours: ByteArray) -> str:
    return _uri(Image.fromarray(colours), "PNG")


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _inside_script(data: Any) -> str:
    """JSON that cannot end the element it stands in, whatever a file is called."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
