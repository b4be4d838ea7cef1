"""Memory for request bodies, shared by all requests.

A body reserves its announced length before it is read, and waits while others use the memory: the sender is
held back by TCP. If memory stays short for PATIENCE seconds, the largest upload that has not finished gives
way, so that somebody who announces much and sends little cannot keep others out. A quarter is left to bodies
of at most SMALL bytes.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from dinodeploy.serve.refused import Refused

SMALL = 1 << 20  # bytes
PATIENCE = 1.0  # seconds
_POLL = 0.05  # seconds between attempts


@dataclass(eq=False)
class Upload:
    """One body that is being read, or was read. size: reserved bytes."""

    started: float = field(default_factory=time.monotonic)
    parts: list[bytes] = field(default_factory=list)
    received: int = 0
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


class ByteBudget:
    """At most `total` bytes of bodies at a time. For one event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._uploads: set[Upload] = set()

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
        """Wait until `upload` may have `size` bytes. Raises Refused, 503, at `deadline`."""
        patient_until = time.monotonic() + PATIENCE
        while not upload.evicted and size > upload.size:
            more = size - upload.size
            most = self.total if size <= SMALL else max(size, self.total * 3 // 4)
            if self.used + more <= most:
                self.used += more
                upload.size = size
                return
            now = time.monotonic()
            if now > patient_until and not self._evict(upload, now) and now > deadline:
                raise Refused(503, "the service is short of memory; retry later", 1)
            await asyncio.sleep(_POLL)

    def _evict(self, upload: Upload, now: float) -> bool:
        """The largest upload that is slow gives way. False if no upload is slow."""
        slow = [
            one
            for one in self._uploads
            if one is not upload and one.size > SMALL and not one.finished and now - one.started > PATIENCE
        ]
        if not slow:
            return False
        largest = max(slow, key=lambda one: one.size)
        largest.evicted = True
        self._release(largest)
        return True

    def _release(self, upload: Upload) -> None:
        self.used -= upload.size
        upload.size = 0
        upload.parts.clear()
