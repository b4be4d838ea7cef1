"""Shared by the two GPU scripts: the GPU, the models by name, bundles of them, and the rows of a record."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared import make_parser, new_record

from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.errors import DinodeployError, UnavailableError
from dinodeploy.hardware.devices import Gpu, find_gpu
from dinov3_ref.checkpoints import Checkpoint, planted_checkpoint, random_checkpoint
from dinov3_ref.models.config import ViTConfig

_ONNXRUNTIME, _TENSORRT = ("onnxruntime", "onnxruntime-gpu"), ("tensorrt", "tensorrt_rtx")
PACKAGES = ("torch", "onnx", *_ONNXRUNTIME, *_TENSORRT, "cuda-bindings", "numpy")
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


def make_gpu_parser(doc: str | None, models: str, recipes: str) -> argparse.ArgumentParser:
    """The options that both scripts have, with their defaults."""
    parser = make_parser(doc)
    parser.add_argument("--models", default=models, help=f"of {', '.join(MODELS)}")
    parser.add_argument("--recipes", default=recipes)
    parser.add_argument("--bundles", type=Path, help="use and keep bundles here")
    parser.add_argument("--out", type=Path, help="the record; default: benchmarks/ledger/")
    return parser


def gpu_or_exit(what: str) -> Gpu:
    """The GPU. Without one, print so and exit with 0: there is nothing to do."""
    try:
        return find_gpu()
    except UnavailableError as error:
        print(f"{what} skipped: {error}")
        sys.exit(0)


def new_gpu_record(script: str, gpu: Gpu, arguments: list[str]) -> dict[str, Any]:
    """A record without rows; it is saved after every row, so an interrupted run keeps what it has."""
    return {**new_record(script, PACKAGES, arguments), "gpu": asdict(gpu), "rows": []}


@contextmanager
def torch_fp32() -> Iterator[Any]:
    """torch without TF32, so that fp32 on the GPU is fp32, as the reference needs."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield torch
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
