"""A checkpoint in memory, with official key names for every layout (docs/spec.md 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dinov3_ref.models.config import ModelConfig

Channels = tuple[float, float, float]


@dataclass(frozen=True, eq=False)  # == of tensors is elementwise
class Checkpoint:
    """A complete DINOv3 state dict and what is known about its origin.

    `state` has exactly the keys and shapes of `expected_shapes(config)`. Tensors keep the file's dtype (RoPE
    periods: fp32) and are memory-mapped where the format allows it, so treat them as read-only. A tensor that
    the file stores in parts is joined on each access (`lazy_tensors.py`).
    """

    config: ModelConfig
    arch: str  # key of ARCHITECTURES, or "custom" for other shapes
    state: Mapping[str, Tensor] = field(repr=False)
    layout: str  # official | hf | timm | random
    dataset: str | None  # lvd1689m | sat493m; None if unknown
    source: str  # path or hub id, for display
    sha256: str  # of the file; for shards, of their sorted "name sha256" lines
    mean: Channels | None = None  # input normalisation, from a JSON file beside the weights
    std: Channels | None = None
    licence: str | None = None  # of the weights, if a JSON file beside them names one
    notes: tuple[str, ...] = ()  # what was assumed, filled in or left out, one line each
