"""Axial rotary position embedding for patches (DINOv3, arXiv:2508.10104; docs/spec.md 2.2).

Each period gives one angle for the row and one for the column: angle = 2π · coordinate / period.

Shapes: H W patch grid, P = H*W patches (row-major), d head_dim, F = d/4 periods.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NORMALIZATIONS = ("separate", "max", "min")


class RopePositionEmbedding(nn.Module):
    """Table of sines and cosines for a patch grid of any size.

    `periods` is a persistent buffer [F]: released files store it rounded to bfloat16, and official features
    use the rounded values (docs/spec.md 0, fact 1). The arithmetic uses `dtype`, not the buffer's dtype.
    Raises ValueError if head_dim is not a multiple of 4, for an unknown `normalize_coords`, and unless
    exactly one of `base` and the pair `min_period`, `max_period` is given.
    """

    periods: Tensor

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        base: float | None = 100.0,
        min_period: float | None = None,
        max_period: float | None = None,
        normalize_coords: str = "separate",
        shift_coords: float | None = None,
        jitter_coords: float | None = None,
        rescale_coords: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if embed_dim % (4 * num_heads):
            raise ValueError(
                f"embed_dim {embed_dim} is not a multiple of 4 x {num_heads} heads, as RoPE needs"
            )
        both = min_period is not None and max_period is not None
        if (base is None) != both or (min_period is None) != (max_period is None):
            raise ValueError(
                f"RoPE periods: got base={base}, min_period={min_period}, max_period={max_period}; "
                "wanted base alone, or both periods alone"
            )
        if normalize_coords not in NORMALIZATIONS:
            raise ValueError(
                f"normalize_coords {normalize_coords!r}; wanted one of {', '.join(NORMALIZATIONS)}"
            )
        self.head_dim = embed_dim // num_heads
        self.base = base
        self.min_period = min_period
        self.max_period = max_period
        self.normalize_coords = normalize_coords
        self.shift_coords = shift_coords
        self.jitter_coords = jitter_coords
        self.rescale_coords = rescale_coords
        self.dtype = dtype or torch.get_default_dtype()
        periods = torch.empty(self.head_dim // 4, device=device, dtype=self.dtype)
        self.register_buffer("periods", periods, persistent=True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Compute `periods`: base^(4i/d), or a geometric ramp from min_period to max_period."""
        n, device = self.head_dim // 4, self.periods.device
        if self.base is not None:
            exponents = 2 * torch.arange(n, device=device, dtype=self.dtype) / (self.head_dim // 2)
            periods = self.base**exponents
        else:
            assert self.min_period is not None
            assert self.max_period is not None
            ratio = self.max_period / self.min_period
            ramp = torch.linspace(0, 1, n, device=device, dtype=self.dtype)
            periods = ratio**ramp / ratio * self.max_period
        self.periods.data.copy_(periods)

    def forward(self, *, H: int, W: int) -> tuple[Tensor, Tensor]:
        """(sin, cos), each [P, d], for a grid of H rows and W columns of patches."""
        coords_P2 = self._augment(self._coordinates(H, W)) if self.training else self._coordinates(H, W)
        periods = self.periods.to(self.dtype)
        angles_P2F = 2 * math.pi * coords_P2[:, :, None] / periods[None, None, :]
        half_Pd = angles_P2F.flatten(1, 2)  # all row frequencies, then all column frequencies
        angles_Pd = torch.cat((half_Pd, half_Pd), dim=-1)
        return torch.sin(angles_Pd), torch.cos(angles_Pd)

    def _coordinates(self, H: int, W: int) -> Tensor:
        """Patch centres as (row, column), [P, 2], scaled to -1..1 (exactly so for "separate")."""
        span_h, span_w = {"separate": (H, W), "max": (max(H, W),) * 2, "min": (min(H, W),) * 2}[
            self.normalize_coords
        ]
        device = self.periods.device
        rows = torch.arange(0.5, H, device=device, dtype=self.dtype) / span_h
        columns = torch.arange(0.5, W, device=device, dtype=self.dtype) / span_w
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
        return 2.0 * grid.flatten(0, 1) - 1.0

    def _augment(self, coords_P2: Tensor) -> Tensor:
        """Training only: shift and jitter each axis, then rescale both, in this order."""

        def uniform(count: int, bound: float) -> Tensor:
            draw = torch.empty(count, device=coords_P2.device, dtype=self.dtype)
            return draw.uniform_(-bound, bound)

        if self.shift_coords is not None:
            coords_P2 = coords_P2 + uniform(2, self.shift_coords)
        if self.jitter_coords is not None:
            coords_P2 = coords_P2 * uniform(2, math.log(self.jitter_coords)).exp()
        if self.rescale_coords is not None:
            coords_P2 = coords_P2 * uniform(1, math.log(self.rescale_coords)).exp()
        return coords_P2
