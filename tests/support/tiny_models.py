"""Small models that share everything with the released ones but width and depth, and bundles of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # tests of the runtime must not load torch for a name
    from dinodeploy.bundle.bundle import Bundle
    from dinov3_ref.checkpoints import Checkpoint
    from dinov3_ref.models.config import ConvNeXtConfig, ViTConfig

# The engine that tolerances were measured on. With `device="auto"`, CPUs with bf16 instructions run bf16 and
# int8 bundles on OpenVINO, which also keeps the residual stream in bf16.
ONNXRUNTIME = "onnxruntime"

# name -> what differs from a released ViT-S. head_dim is 64, or 128 as in the 7B.
CONFIGS: dict[str, dict[str, Any]] = {
    "mlp": {"embed_dim": 128, "num_heads": 2},
    "swiglu": {"embed_dim": 128, "num_heads": 2, "ffn_layer": "swiglu", "ffn_ratio": 6.0},
    "7b": {
        "embed_dim": 256,
        "num_heads": 2,
        "ffn_layer": "swiglu64",
        "ffn_ratio": 3.0,
        "qkv_bias": False,
        "untie_global_and_local_cls_norm": True,
    },
}


def tiny_config(kind: str = "mlp", **changes: Any) -> ViTConfig:
    from dinov3_ref.models.config import ViTConfig

    return ViTConfig(**{"depth": 3, **CONFIGS[kind], **changes})


def tiny_convnext(**changes: Any) -> ConvNeXtConfig:
    """A ConvNeXt whose third stage, as in the released ones, is the longest."""
    from dinov3_ref.models.config import ConvNeXtConfig

    return ConvNeXtConfig(**{"depths": (1, 1, 3, 1), "dims": (32, 64, 96, 128), **changes})


def export_passing(checkpoint: Checkpoint, out: Path, **options: Any) -> Bundle:
    """Export a checkpoint that the judge must accept; `options` are `ExportOptions`'."""
    from exporters.bundle.export import ExportOptions, export_checkpoint

    bundle, _ = export_checkpoint(checkpoint, out, ExportOptions(**options), weights="random")
    assert bundle.receipt is not None
    assert bundle.receipt.passed
    return bundle


def export_tiny(out: Path, kind: str = "mlp", *, seed: int = 0, **options: Any) -> Bundle:
    """Export a small random model; `options` are `ExportOptions`'."""
    from dinov3_ref.checkpoints import random_checkpoint

    return export_passing(random_checkpoint(tiny_config(kind), seed), out, **options)
