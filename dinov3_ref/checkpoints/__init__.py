"""Checkpoints of DINOv3 backbones in all layouts: load, build a model, convert, fetch.

Source: docs/spec.md 3.
"""

from __future__ import annotations

from dinov3_ref.checkpoints.architecture import META_LICENCE, NORMALIZATION
from dinov3_ref.checkpoints.checkpoint import Checkpoint
from dinov3_ref.checkpoints.convert import convert, save_checkpoint
from dinov3_ref.checkpoints.files import RawCheckpoint
from dinov3_ref.checkpoints.hub import Fetched, fetch
from dinov3_ref.checkpoints.load import build_model, checkpoint_of, load_checkpoint
from dinov3_ref.checkpoints.sidecars import normalization
from dinov3_ref.checkpoints.synthetic.planted import PATHOLOGIES, planted_checkpoint
from dinov3_ref.checkpoints.synthetic.random import random_checkpoint
from dinov3_ref.checkpoints.tensor_shapes import expected_shapes

__all__ = [
    "Checkpoint",
    "RawCheckpoint",
    "load_checkpoint",
    "checkpoint_of",
    "build_model",
    "random_checkpoint",
    "planted_checkpoint",
    "PATHOLOGIES",
    "convert",
    "save_checkpoint",
    "fetch",
    "Fetched",
    "expected_shapes",
    "META_LICENCE",
    "NORMALIZATION",
    "normalization",
]
