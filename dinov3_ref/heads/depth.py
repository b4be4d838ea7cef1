"""Depth from features: bins and their weights, and the linear head (docs/spec.md 5.6).

Shapes: B batch, N bins, D embed_dim, h w patch grid, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.heads.head import Head, arguments, map_names
from dinov3_ref.heads.linear import enlarge, norm_and_conv

BINS = ("linear", "log", "mixlog")
NORMS = ("linear", "softmax", "sigmoid", "mixlog")
RELU_SHIFT = {"linear": 0.1, "mixlog": 1e-8}  # added to relu(x): every bin has a weight
MIXLOG_SCALE = 8.0  # mixlog bins end at max_depth / 8; the mixlog norm multiplies by it


class FeaturesToDepth(nn.Module):
    """[B,N,h,w] -> depth [B,1,h,w], in the unit of the range (metres in released heads).

    N > 1: the weighted sum of N bins from `min_depth` to `max_depth`, spaced linearly or logarithmically;
    `norm` turns activations into weights. N = 1: relu(x) + min_depth. mixlog, of the canopy-height head: bins
    go from logarithmic to linear spacing. Where all activations of a pixel are negative or nearly zero, its
    weights are decided by rounding (`exporters/heads/condition.py`). Source: docs/spec.md 5.6.
    """

    bins: Tensor

    def __init__(
        self, n_bins: int, min_depth: float, max_depth: float, bins: str = "linear", norm: str = "linear"
    ) -> None:
        super().__init__()
        if bins not in BINS or norm not in NORMS:
            raise ConfigError(
                f"bins {bins!r}, norm {norm!r}; wanted bins {' or '.join(BINS)}, norm {', '.join(NORMS)}"
            )
        if not 0 < min_depth < max_depth:
            raise ConfigError(f"depth range {min_depth}..{max_depth}; wanted 0 < min < max")
        self.min_depth, self.norm = min_depth, norm
        self.register_buffer("bins", _centres(n_bins, min_depth, max_depth, bins), persistent=False)

    @property
    def is_sharp(self) -> bool:
        """Whether rounding decides the weights where all activations are nearly zero."""
        return self.norm == "mixlog" and len(self.bins) > 1

    def forward(self, x: Tensor) -> Tensor:
        if len(self.bins) == 1:
            return torch.relu(x) + self.min_depth
        if self.norm == "softmax":
            weights = torch.softmax(x, dim=1)
        else:
            shift = RELU_SHIFT.get(self.norm)
            positive = torch.sigmoid(x) if shift is None else torch.relu(x) + shift
            weights = positive / positive.sum(dim=1, keepdim=True)
        depth = (weights * self.bins[:, None, None]).sum(dim=1, keepdim=True)
        return depth * MIXLOG_SCALE if self.norm == "mixlog" else depth


def _centres(n_bins: int, min_depth: float, max_depth: float, bins: str) -> Tensor:
    """Depth of each bin, [N]."""
    if bins == "mixlog":
        max_depth /= MIXLOG_SCALE
    linear = torch.linspace(min_depth, max_depth, n_bins)
    if bins == "linear":
        return linear
    log = torch.linspace(math.log(min_depth), math.log(max_depth), n_bins).exp()
    if bins == "log":
        return log
    share = torch.linspace(1.0, 0.0, n_bins)
    return share * log + (1.0 - share) * linear


class LinearDepth(Head):
    """Patch maps [B,h,w,D] -> `depth` [B,1,H,W]: optional batch norm, 1x1 convolution to bins, resize."""

    task = "depth"

    def __init__(
        self,
        embed_dim: int,
        n_bins: int = 256,
        min_depth: float = 0.001,
        max_depth: float = 10.0,
        bins: str = "linear",
        norm: str = "linear",
        layers: Sequence[int] = (),
        batchnorm: bool = False,
        patch_size: int = 16,
    ) -> None:
        super().__init__()
        self._config = arguments(locals())
        self.embed_dim, self.patch_size = embed_dim, patch_size
        self.inputs = map_names(layers)
        self.outputs = {"depth": ("batch", 1, "height", "width")}
        channels = len(self.inputs) * embed_dim
        self.batchnorm, self.conv = norm_and_conv(channels, n_bins, batchnorm)
        self.to_depth = FeaturesToDepth(n_bins, min_depth, max_depth, bins, norm)
        self.needs_condition = self.to_depth.is_sharp

    def forward(self, *maps: Tensor) -> tuple[Tensor]:
        x_BCHW = torch.cat(maps, dim=-1).permute(0, 3, 1, 2)
        depth = self.to_depth(self.conv(self.batchnorm(x_BCHW)))
        return (enlarge(depth, self.patch_size),)  # resizes one channel instead of one per bin
