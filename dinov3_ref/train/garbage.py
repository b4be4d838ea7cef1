"""Garbage collection at chosen iterations, on all ranks together.

Python collects when it likes: one rank at a time, while the others wait for it in a collective.
"""

from __future__ import annotations

import gc


class GarbageCollection:
    """Context manager: Python's automatic collection is off while open; `after_step` collects instead.

    period: iterations between collections; 0 leaves the automatic one on.
    """

    def __init__(self, period: int) -> None:
        self.period = period
        self._steps = 0
        self._was_enabled = False

    def __enter__(self) -> GarbageCollection:
        self._was_enabled = gc.isenabled()
        if self.period:
            gc.disable()
            gc.collect()
        return self

    def __exit__(self, *_: object) -> None:
        if self._was_enabled:
            gc.enable()

    def after_step(self) -> None:
        """Collect if it is time. Call it once per iteration."""
        self._steps += 1
        if self.period and self._steps % self.period == 0:
            gc.collect()
