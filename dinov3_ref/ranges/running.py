"""Running statistics over batches that keep no batch in memory.

Shapes: B images, N tokens (CLS, storage, patches), C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dinov3_ref.ranges.ranges import FP16_LARGEST, TOKEN_KINDS, ResidualRange, Spread

# The upper 16 bits of a positive float32 order floats: sign (0), exponent, 7 bits of mantissa.
_BINS = 1 << 15


def largest(x: Tensor) -> float:
    """Largest magnitude of a tensor of any shape; infinite if a value is NaN."""
    low, high = x.detach().aminmax()
    value = float(torch.maximum(-low, high))
    return math.inf if math.isnan(value) else value


class ChannelMaxima:
    """Largest magnitude of each channel."""

    def __init__(self) -> None:
        self.maxima_C: Tensor | None = None

    def see(self, x: Tensor) -> None:
        """x [..., C]"""
        found_C = x.detach().flatten(0, -2).abs().amax(0)
        self.maxima_C = found_C if self.maxima_C is None else torch.maximum(self.maxima_C, found_C)

    def spread(self) -> Spread:
        assert self.maxima_C is not None
        channel = int(self.maxima_C.argmax())
        top, median = float(self.maxima_C[channel]), float(self.maxima_C.median())
        if not top:
            return Spread(1.0, channel, top, median)  # all zeros count as even
        ratio = top / median if median and math.isfinite(top) else math.inf
        return Spread(ratio, channel, top, median)


class ResidualSeen:
    """The residual stream after one block: maximum, percentile, and the tokens past fp16's limit."""

    def __init__(self, storage_tokens: int | None) -> None:
        """`storage_tokens`: their number after CLS; None if all tokens are patches."""
        cls, prefix = (0, 0) if storage_tokens is None else (1, 1 + storage_tokens)
        self.cuts = {"cls": slice(0, cls), "storage": slice(cls, prefix), "patch": slice(prefix, None)}
        self.counts = torch.zeros(_BINS, dtype=torch.int64)
        self.channels = ChannelMaxima()
        self.largest = dict.fromkeys(TOKEN_KINDS, 0.0)
        self.beyond = dict.fromkeys(TOKEN_KINDS, 0)
        self.tokens = dict.fromkeys(TOKEN_KINDS, 0)

    def see(self, x_BNC: Tensor) -> None:
        magnitude_BNC = x_BNC.detach().abs()
        self.channels.see(x_BNC)
        bits = magnitude_BNC.float().flatten().view(torch.int32) >> 16
        self.counts += torch.bincount(bits, minlength=_BINS).cpu()
        by_token_BN = magnitude_BNC.amax(-1)
        for kind, cut in self.cuts.items():
            tokens = by_token_BN[:, cut]
            if tokens.numel():
                self.largest[kind] = max(self.largest[kind], largest(tokens))
                self.beyond[kind] += int((~(tokens <= FP16_LARGEST)).sum())  # NaN counts as beyond
                self.tokens[kind] += tokens.numel()

    def result(self) -> ResidualRange:
        assert self.channels.maxima_C is not None
        top = max(self.largest.values())
        return ResidualRange(
            largest=top,
            p999=min(self._percentile(0.999), top),
            largest_by_kind=dict(self.largest),
            channels_beyond=int((~(self.channels.maxima_C <= FP16_LARGEST)).sum()),
            tokens_beyond=dict(self.beyond),
            tokens=dict(self.tokens),
        )

    def _percentile(self, share: float) -> float:
        """The middle of the histogram bin that holds the `share` quantile of all values."""
        wanted = math.ceil(share * int(self.counts.sum()))
        bin_ = int(torch.searchsorted(self.counts.cumsum(0), wanted))
        return float(torch.tensor(bin_ << 16 | 1 << 15, dtype=torch.int32).view(torch.float32))
