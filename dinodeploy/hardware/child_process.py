"""Start and end one helper process, such as a decoder of images."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_PIPE = 1 << 20  # bytes that a pipe holds, where the system has larger ones


def start_process(module: str, *arguments: int, inherit: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """A process that calls `main(*arguments)` of `module`, with pipes as its stdin and stdout.

    It has this process's import path, and not its `__main__`: a script without an `if __name__` guard is not
    run again, and torch is not imported. When this process dies, however it dies, stdin of the new one ends.
    inherit: file descriptors that it keeps, under the same numbers.
    """
    path = [str(Path(entry).absolute()) for entry in sys.path]
    call = ", ".join(map(str, arguments))
    code = f"import sys; sys.path[:] = {path!r}; from {module} import main; main({call})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=tuple(inherit),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    with suppress(ImportError, OSError, AttributeError):  # larger pipes, where the system has them
        import fcntl

        for pipe in (process.stdin, process.stdout):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)  # type: ignore[union-attr]
    return process


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """In the helper process: stdin and stdout for ourselves; whatever a library prints goes nowhere."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return sys.stdin.buffer, replies


def end_process(process: subprocess.Popen[bytes]) -> int:
    """Kill and reap a process. Returns its exit code."""
    if process.poll() is None:
        with suppress(subprocess.TimeoutExpired):  # it may be ending with a code of its own
            process.wait(0.05)
        process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            pipe.close()  # type: ignore[union-attr]  # both are pipes
    return process.wait()


def cause_of(code: int, late: bool) -> str:
    """Why a process ended, for the log. late: it was killed at its deadline."""
    if late:
        return "past its deadline"
    return signal.Signals(-code).name if code < 0 else f"exit {code}"
