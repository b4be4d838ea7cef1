"""One case of the pixel matrix: a file, and the pixels that it must give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, Any]
HEIGHT, WIDTH = 19, 29  # off square, and not a multiple of eight in either direction


@dataclass(frozen=True)
class Case:
    """A file in memory. wanted: RGB [H,W,3] in 0..255, not rounded; None for a file that must be refused."""

    name: str
    data: bytes
    wanted: Pixels | None
    allowed: float = 1  # grey levels


def ramps() -> Pixels:
    """[H,W,6] in 0..1: channels that differ, with both ends of the range."""
    down, across = np.meshgrid(np.linspace(0, 1, HEIGHT), np.linspace(0, 1, WIDTH), indexing="ij")
    third = (np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) % 17) / 16
    return np.stack([across, down, third, 1 - third, 1 - down, 1 - across], axis=-1)


def levels(shares: Pixels, bits: int) -> Pixels:
    """0..1 -> integers of so many bits."""
    return np.rint(shares * ((1 << bits) - 1)).astype(np.int64)


def over_white(rgb: Pixels, alpha: Pixels, *, associated: bool = False) -> Pixels:
    """Colours [H,W,3] and alpha [H,W,1] in 0..1."""
    return rgb * (1 if associated else alpha) + 1 - alpha
