"""The bundle of the toy model that knows words (examples/models/toy_words), and images for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # tests of the runtime must not load torch for a name
    from dinodeploy.bundle.bundle import Bundle

MODELS = Path(__file__).parents[3] / "examples" / "models"
HEAD, VOCABULARY = MODELS / "toy_words" / "model.safetensors", MODELS / "toy_words" / "vocabulary.txt"


def export_words(out: Path, **options: Any) -> Bundle:
    """Export the toy model; `options` are `ExportOptions`'. Images are 32 px, embeddings [256]."""
    from dinov3_ref.text import load_dinotxt
    from exporters.bundle.export import ExportOptions, export_checkpoint
    from exporters.text.graph import prepare_text

    loaded = load_dinotxt(MODELS / "toy_vit", HEAD)
    bundle, _ = export_checkpoint(
        loaded.backbone,
        out,
        ExportOptions(imgsz=(32, 32), **options),
        weights="file",
        text=prepare_text(loaded, VOCABULARY),
    )
    return bundle


def write_shapes(folder: Path, names: dict[str, tuple[str, str, str, str, str]], side: int = 64) -> None:
    """Images of the toy set: file name -> shape, colour, texture, colour of the background, size."""
    from dinov3_ref.data.toy.captions import Scene, draw_scene

    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, parts) in enumerate(names.items()):
        pixels = draw_scene(Scene(*parts), side, np.random.default_rng(number))
        Image.fromarray(pixels).save(folder / name)


SHAPES = {
    "a.png": ("circle", "red", "striped", "blue", "large"),
    "b.png": ("star", "yellow", "plain", "green", "large"),
    "c.png": ("cross", "white", "dotted", "purple", "large"),
    "d.png": ("square", "black", "checked", "orange", "large"),
    "e.png": ("ring", "green", "plain", "yellow", "large"),
    "f.png": ("triangle", "orange", "striped", "white", "large"),
}
