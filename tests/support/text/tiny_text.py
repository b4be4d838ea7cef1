"""Small dino.txt models, and bundles of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # tests of the runtime must not load torch for a name
    from dinodeploy.bundle.bundle import Bundle
    from dinov3_ref.text import DinoTxtConfig, LoadedDinoTxt

# The first 3,000 merges of the published file: small models have a small vocabulary
# (tests/data/vocabulary/README.md).
VOCABULARY = Path(__file__).parents[2] / "data" / "vocabulary" / "bpe_first_3000.txt.gz"
VOCAB_SIZE = 2 * 256 + 3000 + 2


def tiny_text_config(**changes: Any) -> DinoTxtConfig:
    """Two heads in either tower; embeddings of 256."""
    from dinov3_ref.text import DinoTxtConfig

    sizes: dict[str, Any] = {
        "vision_dim": 128,
        "vision_depth": 2,
        "vision_ffn": 352,
        "text_dim": 128,
        "text_depth": 3,
        "text_ffn": 512,
        "vocab_size": VOCAB_SIZE,
        "embed_dim": 256,
    }
    return DinoTxtConfig(**{**sizes, **changes})


def tiny_dinotxt(seed: int = 0, **changes: Any) -> LoadedDinoTxt:
    """A small random model around the backbone of `tiny_models`."""
    from dinov3_ref.text import random_dinotxt
    from tests.support.tiny_models import tiny_config

    return random_dinotxt(tiny_config(), tiny_text_config(**changes), seed)


def export_tiny_text(out: Path, *, seed: int = 0, **options: Any) -> Bundle:
    """Export a small dino.txt model; `options` are `ExportOptions`'. Images are 224 px, embeddings [256]."""
    from exporters.bundle.export import ExportOptions, export_checkpoint
    from exporters.text.graph import prepare_text

    loaded = tiny_dinotxt(seed)
    bundle, _ = export_checkpoint(
        loaded.backbone,
        out,
        ExportOptions(**options),
        weights="random",
        text=prepare_text(loaded, VOCABULARY),
    )
    return bundle
