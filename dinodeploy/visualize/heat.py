"""The colour scale of maps: from dark blue over violet, red and orange to pale yellow.

Brightness rises along it, so it reads in grey and with any colour vision. Shapes: h w of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinodeploy.arrays import ByteArray

SCALE: tuple[tuple[int, int, int], ...] = (
    (13, 15, 45),
    (72, 26, 108),
    (155, 43, 106),
    (226, 88, 72),
    (249, 159, 74),
    (252, 239, 178),
)


@dataclass(frozen=True)
class Range:
    """What the two ends of the colours mean. unit: "cosine", or "attention share" of 0 to 1."""

    unit: str
    low: float
    high: float

    @property
    def ends(self) -> tuple[str, str]:
        """Both values as text: a cosine with two digits, a share in percent."""
        if self.unit == "cosine":
            return f"{self.low:.2f}", f"{self.high:.2f}"
        return _percent(self.low), _percent(self.high)


def _percent(share: float) -> str:
    """Two digits; none after the point from 10 % on."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def heat(values: NDArray[np.floating], low: float, high: float) -> ByteArray:
    """Values [h,w] -> RGB [h,w,3]; `low` and `high` are the two ends of the scale."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    places = np.linspace(0, 1, len(SCALE))
    channels = [np.interp(share, places, [colour[channel] for colour in SCALE]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)
