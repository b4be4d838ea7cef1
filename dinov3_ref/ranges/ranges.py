"""Results of `measure_ranges`: the largest magnitudes inside a model, block by block.

A site is one value in the network: the residual stream, a norm's output, the input or output of a linear
layer, an attention logit. Its role decides its type in a precision recipe. All numbers are magnitudes over
all images unless stated otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FP16_LARGEST = 65504.0  # IEEE 754 binary16: (2 - 2^-10) * 2^15
TOKEN_KINDS = ("cls", "storage", "patch")

# role -> what it is. `predict.py` lists the low-precision roles of each recipe.
ROLES: dict[str, str] = {
    "embedding": "patch embedding",
    "residual": "residual stream, after either branch of a block",
    "norm": "output of a norm",
    "linear_in": "input of a linear layer",
    "linear_out": "output of a linear layer, bias included",
    "query": "q after RoPE",
    "scaled_query": "q after RoPE, times head_dim^-0.5",
    "key": "k after RoPE",
    "value": "v, bias included",
    "logits": "q·k, before scaling",
    "scaled_logits": "q·k times head_dim^-0.5, the input of softmax",
    "attended": "softmax(logits)·v, the input of the output projection",
    "branch": "a branch after LayerScale, as it is added to the stream",
    "hidden": "the feed-forward layer's activation, the input of its last linear layer",
}


@dataclass(frozen=True)
class Site:
    """One value of the network and its largest magnitude (infinite if any value was not finite)."""

    name: str  # "blocks.3.mlp.fc2 output"
    role: str  # key of ROLES
    largest: float


@dataclass(frozen=True)
class Spread:
    """How uneven the channels of a value are; per-tensor int8 has one step for all of them.

    Each channel counts with its largest magnitude over tokens and images. `ratio` is the largest channel over
    the median channel, infinite if more than half of the channels are always zero.
    """

    ratio: float
    channel: int  # the largest one's index
    largest: float
    median: float


@dataclass(frozen=True)
class Gains:
    """Magnitudes of LayerScale's gains over the channels."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True)
class ResidualRange:
    """The residual stream after one block.

    `p999` is the 99.9th percentile of all values, to within 0.4 %. The two counts are over all images;
    "beyond" means past 65,504, where fp16 ends, in at least one channel.
    """

    largest: float
    p999: float
    largest_by_kind: Mapping[str, float]  # by TOKEN_KINDS
    channels_beyond: int
    tokens_beyond: Mapping[str, int]
    tokens: Mapping[str, int]  # how many there were


@dataclass(frozen=True)
class BlockRanges:
    """One block of a ViT or a ConvNeXt. Values that its layers do not have are None or absent.

    `logits` and `scaled_logits`: q·k before and after the scale; None where attention is not `SelfAttention`.
    `hidden`: input of the feed-forward layer's last linear layer. `linear_out`: the largest output of any
    linear layer, convolutions among them. `layer_scale`: by "ls1", "ls2", or "gamma". `spreads`: by the
    value's name inside the block.
    """

    index: int  # in order of computation
    name: str  # "blocks.3", "stages.2.3"
    residual: ResidualRange
    logits: float | None
    scaled_logits: float | None
    hidden: float | None
    linear_out: float | None
    layer_scale: Mapping[str, Gains]
    spreads: Mapping[str, Spread]
    sites: tuple[Site, ...]  # in order of computation


@dataclass(frozen=True)
class Ranges:
    """A model's ranges over a set of images."""

    images: int
    sizes: tuple[tuple[int, int], ...]  # (H, W) in pixels, each once
    stem: tuple[Site, ...]  # before the blocks
    blocks: tuple[BlockRanges, ...]
    tail: tuple[Site, ...]  # after them

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites, in order of computation."""
        return (*self.stem, *(site for block in self.blocks for site in block.sites), *self.tail)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for JSON: what is not finite becomes None."""
        facts: dict[str, Any] = plain(asdict(self))
        return facts


def plain(value: Any) -> Any:
    """Tuples as lists, non-finite floats as None, recursively."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
