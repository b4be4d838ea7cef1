"""A checkpoint in memory, with official key names for each layout (docs/spec.md 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dinov3_ref.models.config import ModelConfig

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class AdapterSource:
    """The adapter that was merged into a checkpoint."""

    source: str  # name of its folder
    sha256: str  # of its weights and its configuration


@dataclass(frozen=True, eq=False)  # == of tensors is elementwise
class Checkpoint:
    """A complete DINOv3 state dict and what is known about its origin.

    `state` has exactly the keys and shapes of `expected_shapes(config)`. Tensors keep the file's dtype (RoPE
    periods: fp32) and are memory-mapped where the format allows it, so treat them as read-only. A tensor that
    the file stores in parts is joined on each access (`LazyTensors`).
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
    beside: Mapping[str, Tensor] = field(default_factory=dict, repr=False)  # tensors outside the backbone
    adapter: AdapterSource | None = None
    described: Mapping[str, Any] = field(default_factory=dict, repr=False)  # config.json beside the weights
    periods: str = "bf16"  # rounding of RoPE periods that the file does not hold: bf16 | fp32


class LazyTensors(Mapping[str, Tensor]):
    """Read-only mapping in the given order; a value is a tensor, or a function called on each access.

    A file with separate q, k and v has no fused qkv to map into memory. Joined in advance, those of a 7B
    would take 8 GB; computed on access, only one is in memory at a time.
    """

    def __init__(self, tensors: Mapping[str, Tensor | Callable[[], Tensor]]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, key: str) -> Tensor:
        found = self._tensors[key]
        return found if isinstance(found, Tensor) else found()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        return key in self._tensors  # without computing it
