"""One decoding process: read, decode and preprocess images into shared memory, until its input ends.

Imports numpy and Pillow, never a model's runtime.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from typing import Any

import numpy as np

from dinodeploy.arrays import AnyArray
from dinodeploy.hardware.child_process import take_pipes
from dinodeploy.images.limits import one_thread_per_image
from dinodeploy.pipeline.decode import decode_image
from dinodeploy.pipeline.processes.messages import Reader, Setup, frame, receive
from dinodeploy.pipeline.processes.ring import map_ring


def main() -> None:
    """Decode what arrives on stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one decides
    jobs, replies = take_pipes()
    one_thread_per_image()
    setup: Setup | None = receive(jobs)
    if setup is None:
        return
    clocks, rows = map_ring(setup.fd, setup.slots, setup.shape, setup.dtype, setup.processes)
    clock = clocks[setup.number]
    number = 0
    with suppress(BrokenPipeError):  # the process that started this one has died
        replies.write(frame(b""))
        replies.flush()
        while (tasks := receive(jobs)) is not None:
            number += 1
            made = []
            for index, (slot, reader) in enumerate(tasks):
                clock[:] = number, index, time.monotonic()
                made.append(decode_task(setup, reader, rows[slot]))
            replies.write(frame(json.dumps(made).encode()))
            replies.flush()


def decode_task(setup: Setup, reader: Reader, slot: AnyArray) -> list[Any]:
    """Decode one image into its slot; what to reply is in `messages.py`."""
    began = time.perf_counter()
    result = _result(setup, reader, slot)
    return [round(time.perf_counter() - began, 6), *result]


def _result(setup: Setup, reader: Reader, slot: AnyArray) -> list[Any]:
    fixed = slot.ndim > 1
    try:
        made = decode_image(reader, setup.preprocess, setup.limits, slot if fixed else None)
    except Exception as error:  # raised again in the process that asked
        return [str(error), type(error).__name__]
    if made.pixels is None:
        return [made.reason]
    if not fixed:
        np.copyto(slot[: made.pixels.size].reshape(made.pixels.shape), made.pixels)
    return [*made.size, *made.pixels.shape]
