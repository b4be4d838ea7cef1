"""Standard output and error of a command: any encoding, closed pipes, a full disk.

a sign that the encoding lacks    is written as an escape, \\u732b
a reader that is gone             (`| head -1`): the rest is dropped, the work decides the exit code
a full disk                       the same, and the command ends with an error
a closed descriptor               (`>&-`): nothing is written, and no other file takes its number
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any

_GONE = (errno.EPIPE, errno.ESHUTDOWN)
_WINDOWS_GONE = errno.EINVAL  # what Windows reports for a closed pipe


class Stream(io.TextIOWrapper):
    """A text stream that never raises. failure: why writing ended early, unless its reader was gone."""

    failure: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Let everything that follows, and what is buffered, go to the null device."""
        gone = error.errno in _GONE or (os.name == "nt" and error.errno == _WINDOWS_GONE)
        if not gone and self.failure is None:
            self.failure = error
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
        with suppress(OSError):
            super().flush()


def open_streams() -> None:
    """Make sys.stdout and sys.stderr such streams, once. Streams that others put there stay as they are."""
    _fill_descriptors()
    for name in ("stdout", "stderr"):
        now = getattr(sys, name)
        if type(now) is io.TextIOWrapper:
            setattr(sys, name, safe_stream(now))


def on_terminal() -> bool:
    """Whether stderr, where progress is shown, is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def safe_stream(stream: Any) -> Stream:
    """A `Stream` in the place of `stream`, which can no longer be used."""
    encoding, buffering = stream.encoding, stream.line_buffering
    with suppress(OSError):
        stream.flush()
    return Stream(
        stream.detach(), encoding, errors="backslashreplace", newline="\n", line_buffering=buffering
    )


def output_failure() -> OSError | None:
    """Write everything out; why standard output could not be written, if it could not."""
    failures = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Stream):
            stream.flush()
            failures.append(stream.failure)
    return failures[0] if failures else None


def _fill_descriptors() -> None:
    """Open the null device in the place of closed standard streams, so that no output file becomes one."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the lowest free number
