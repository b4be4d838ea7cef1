"""How fast a run goes, and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Images a second, and the share of the time that was spent waiting for data, since last read."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._images, self._waited, self._started = 0, 0.0, time.perf_counter()

    @contextmanager
    def waiting_for(self, images: int) -> Iterator[None]:
        """Around the call that fetches a batch of so many."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began
        self._images += images

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Around what is no training: it does not count."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """`images_per_second` and `data_share`; begins anew."""
        seconds = time.perf_counter() - self._started
        result = {"images_per_second": self._images / seconds, "data_share": self._waited / seconds}
        self._restart()
        return result
