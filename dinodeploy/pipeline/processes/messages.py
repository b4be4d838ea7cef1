"""What travels between this process and one that decodes: frames of a length and its bytes, over pipes.

    to a process     a pickled `Setup`, then pickled lists of (slot, reader), one list per message
    from a process   an empty frame when it is ready, then JSON: one entry per image, in order

JSON entry of an image: [seconds, width, height, *shape of its pixels], or [seconds, reason], or, for what is
not the fault of an image, [seconds, text, name of the exception].
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from dinodeploy.images.limits import ImageLimits
from dinodeploy.images.preprocess import Preprocess

_LENGTH = struct.Struct("<I")

Reader = str | Callable[[], Any]  # a path, or a function that can be pickled (`sources.source.reader_of`)
Task = tuple[int, Reader]  # slot of the ring, and how to read the image


@dataclass(frozen=True)
class Setup:
    """What a process is told first. fd: of the ring. number: its row of the ring's clocks."""

    preprocess: Preprocess
    limits: ImageLimits
    fd: int
    number: int
    processes: int
    slots: int
    shape: tuple[int, ...]
    dtype: str


def frame(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def pickled(message: Setup | list[Task]) -> bytes:
    return frame(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def receive(pipe: IO[bytes]) -> Any:
    """The next pickled message; None at the end of the pipe."""
    length = pipe.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return None
    data = pipe.read(_LENGTH.unpack(length)[0])
    return pickle.loads(data)  # from the process that started this one


def split(buffer: bytearray) -> list[bytes]:
    """Remove and return the complete frames at the start of `buffer`."""
    found, at = [], 0
    while len(buffer) - at >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer, at)
        if len(buffer) - at - _LENGTH.size < length:
            break
        at += _LENGTH.size
        found.append(bytes(buffer[at : at + length]))
        at += length
    del buffer[:at]
    return found
