"""The log: one JSON object per line, a limited number of lines per second.

A flood of requests must not fill the disk. What was left out is counted in the next line that is written.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TextIO

LINES = 50.0  # per second
BURST = 1000.0  # lines after a quiet time
_LONGEST = 500  # characters of a foreign message


class Log:
    """Thread-safe. `stream`: where lines go; default: stderr."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.Lock()
        self._tokens, self._then = BURST, clock()
        self._left_out = 0

    def write(self, line: dict[str, Any]) -> None:
        """Write one line, or count it."""
        with self._lock:
            now = self._clock()
            self._tokens = min(BURST, self._tokens + (now - self._then) * LINES)
            self._then = now
            if self._tokens < 1:
                self._left_out += 1
                return
            self._tokens -= 1
            left_out = {"left_out": self._left_out} if self._left_out else {}
            self._left_out = 0
            stamp = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            print(
                json.dumps({"time": stamp, **left_out, **line}), file=self._stream or sys.stderr, flush=True
            )


class LogHandler(logging.Handler):
    """Sends warnings of uvicorn and asyncio to a `Log`, one line each, without their tracebacks."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        self._log.write({"from": record.name, "warning": text[:_LONGEST]})
