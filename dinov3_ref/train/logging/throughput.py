"""Training speed: images per second, and the share of time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Throughput:
    """Images per second and the share of time spent waiting for data, since the last `read`."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._images, self._waited, self._started = 0, 0.0, time.perf_counter()

    @contextmanager
    def waiting_for(self, images: int) -> Iterator[None]:
        """Put around the call that fetches a batch of `images`."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began
        self._images += images

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Put around work that is not training: its time does not count."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Return `images_per_second` and `data_share`, and restart."""
        seconds = time.perf_counter() - self._started
        result = {"images_per_second": self._images / seconds, "data_share": self._waited / seconds}
        self._restart()
        return result
