"""Memory for request bodies, shared by all requests.

A body reserves its announced length before it is read, and waits while others use the memory: the sender is
held back by TCP. If memory stays short for PATIENCE seconds, the largest upload that has not finished gives
way, so that somebody who announces much and sends little cannot keep others out. A quarter is left to bodies
of at most SMALL bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from dinodeploy.serve.refused import Refused

SMALL = 1 << 20  # bytes
PATIENCE = 1.0  # seconds


@dataclass(eq=False)
class Upload:
    """One body that is being read, or was read. size: reserved bytes."""

    started: float = field(default_factory=time.monotonic)
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    finished: bool = False
    evicted: bool = False

    def take(self) -> bytes:
        """The whole body. Raises Refused if it had to give way."""
        if self.evicted:
            raise Refused(503, "the service is short of memory for large bodies; retry later", 1)
        self.finished = True
        body = b"".join(self.parts)
        self.parts.clear()
        return body


@dataclass(frozen=True)
class _Waiting:
    upload: Upload
    size: int
    granted: asyncio.Future[None]
    since: float


class ByteBudget:
    """At most `total` bytes of bodies at a time. For one event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._uploads: set[Upload] = set()
        self._small: deque[_Waiting] = deque()
        self._large: deque[_Waiting] = deque()
        self._clock: asyncio.TimerHandle | None = None

    def open(self) -> Upload:
        """A new upload without bytes; close it when its request ends."""
        upload = Upload()
        self._uploads.add(upload)
        return upload

    def close(self, upload: Upload) -> None:
        """Give its memory back."""
        self._uploads.discard(upload)
        self._release(upload)

    async def reserve(self, upload: Upload, size: int, deadline: float) -> None:
        """Wait until `upload` may have `size` bytes, in order. Raises Refused at `deadline`."""
        if upload.evicted or size <= upload.size:
            return
        queue = self._small if size <= SMALL else self._large
        if not queue and self._fits(upload, size):
            self._take(upload, size)
            return
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        waiting = _Waiting(upload, size, loop.create_future(), now)
        queue.append(waiting)
        self._clock = self._clock or loop.call_later(PATIENCE, self._shortage)
        try:
            await asyncio.wait_for(waiting.granted, max(0.0, deadline - now))
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise Refused(503, "the service is short of memory; retry later", 1) from error

    def _fits(self, upload: Upload, size: int) -> bool:
        most = self.total if size <= SMALL else max(size, self.total * 3 // 4)
        return self.used + size - upload.size <= most

    def _take(self, upload: Upload, size: int) -> None:
        self.used += size - upload.size
        upload.size = size

    def _grant(self) -> None:
        """Let those who wait have what is free."""
        for queue in (self._small, self._large):
            while queue:
                first = queue[0]
                if not first.granted.done():
                    if not first.upload.evicted:
                        if not self._fits(first.upload, first.size):
                            break
                        self._take(first.upload, first.size)
                    first.granted.set_result(None)
                queue.popleft()

    def _shortage(self) -> None:
        """Somebody has waited for long: the largest upload that is slow gives way."""
        now = time.monotonic()
        slow = [
            one
            for one in self._uploads
            if one.size > SMALL and not one.finished and now - one.started > PATIENCE
        ]
        heads = [queue[0].since for queue in (self._small, self._large) if queue]
        if slow and heads and now - min(heads) > PATIENCE / 2:
            largest = max(slow, key=lambda one: one.size)
            largest.evicted = True
            self._release(largest)
        self._grant()
        self._clock = None
        if self._small or self._large:
            self._clock = asyncio.get_running_loop().call_later(PATIENCE / 10, self._shortage)

    def _release(self, upload: Upload) -> None:
        self.used -= upload.size
        upload.size = 0
        upload.parts.clear()
        self._grant()
