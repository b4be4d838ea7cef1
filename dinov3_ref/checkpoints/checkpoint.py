"""One checkpoint in memory: official key names, whatever layout the file had (docs/spec.md 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dinov3_ref.models.config import ModelConfig

Channels = tuple[float, float, float]


@dataclass(frozen=True, eq=False)  # tensors compare element by element: no answer to "is it the same"
class Checkpoint:
    """A complete DINOv3 state dict and everything known about where it comes from.

    `state` has exactly the keys and shapes of `expected_shapes(config)`. Tensors keep the file's dtype and
    are memory-mapped where the format allows it (RoPE periods excepted: fp32), so treat them as read-only.
    One that the file holds in parts is joined each time it is asked for (`lazy.py`).
    """

    config: ModelConfig
    arch: str  # key of ARCHITECTURES, or "custom" where the shapes are none of them
    state: Mapping[str, Tensor] = field(repr=False)
    layout: str  # official | hf | timm | random
    dataset: str | None  # lvd1689m | sat493m; None where the file does not tell
    source: str  # path or hub id, for people
    sha256: str  # of the file; of several shards: over their sorted "name sha256" lines
    mean: Channels | None = None  # input normalisation, from a JSON file beside the weights
    std: Channels | None = None
    licence: str | None = None  # of the weights, where a JSON file beside them names one
    notes: tuple[str, ...] = ()  # what was assumed, filled in or left out, a line each
