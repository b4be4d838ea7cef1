"""The models that the GPU scripts run, by name, and bundles of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dinodeploy.bundle.bundle import Bundle
from dinodeploy.errors import DinodeployError
from dinov3_ref.checkpoints import Checkpoint, planted_checkpoint, random_checkpoint
from dinov3_ref.models.config import ViTConfig

_TINY = {"embed_dim": 128, "depth": 3, "num_heads": 2}

# Random weights, and ones with the extremes of DINOv3: residuals past 65,504, huge logits, uneven channels.
MODELS: dict[str, Callable[[], Checkpoint]] = {
    "tiny": lambda: random_checkpoint(ViTConfig(**_TINY)),
    "tiny_swiglu": lambda: random_checkpoint(ViTConfig(**_TINY, ffn_layer="swiglu", ffn_ratio=6.0)),
    "vit_small": lambda: random_checkpoint("vit_small"),
    "vit_base": lambda: random_checkpoint("vit_base"),
    "vit_large": lambda: random_checkpoint("vit_large"),
    "planted_small": lambda: planted_checkpoint("vit_small"),
    "planted_base": lambda: planted_checkpoint("vit_base"),
    "planted_large": lambda: planted_checkpoint("vit_large"),
}


def export(model: str, recipe: str, folder: Path) -> Bundle:
    """The bundle of a model; one that exists in `folder` is reused. Raises DinodeployError."""
    from dinodeploy.bundle.bundle import open_bundle
    from exporters.bundle.export import ExportOptions, export_checkpoint

    out = folder / f"{model}_{recipe}"
    if out.exists():
        return open_bundle(out)
    try:
        bundle, _ = export_checkpoint(MODELS[model](), out, ExportOptions(recipe=recipe), weights="random")
    except ImportError as error:
        raise DinodeployError(
            f"exporting needs {error.name}: install it, or give bundles made elsewhere (--bundles)"
        ) from error
    return bundle
