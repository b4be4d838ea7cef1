"""What travels between the service and a decoder process: one job in, one reply out, over pipes.

    job      two lengths, a pickled `Job`, the bytes of the file
    reply    two lengths, JSON, the bytes of the result

A job is a pickle because it comes from the service. A reply is JSON and raw numbers: a decoder that was taken
over by its input cannot make the service run code.
"""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import dataclass
from typing import IO, Any, Literal

from dinodeploy.errors import BundleError
from dinodeploy.files.json_file import parse_json
from dinodeploy.images.preprocess import Preprocess

_LENGTHS = struct.Struct("<II")


@dataclass(frozen=True)
class Job:
    """What a decoder is to do.

    embed: the bytes of an image -> pixels of the model's input. thumbnail: the path of an image -> a JPEG.
    ping: nothing, to see whether the process answers.
    accepted: formats. side: pixels of the longer side of a thumbnail. Set by the pool: seconds, of CPU time
    before the process is killed; heavy_from, estimated seconds of decoding from which the image is not
    decoded and only its cost is replied.
    """

    kind: Literal["embed", "thumbnail", "ping"]
    max_pixels: int
    accepted: tuple[str, ...]
    preprocess: Preprocess | None = None
    side: int = 0
    seconds: int = 1
    heavy_from: float = float("inf")


def send_job(pipe: IO[bytes], job: Job, data: bytes) -> None:
    head = pickle.dumps(job)
    pipe.write(_LENGTHS.pack(len(head), len(data)) + head)
    pipe.write(data)
    pipe.flush()


def receive_job(pipe: IO[bytes]) -> tuple[Job, bytes] | None:
    """None at the end of the pipe: the service has closed it, or has died."""
    lengths = pipe.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head, data = _LENGTHS.unpack(lengths)
    job: Job = pickle.loads(pipe.read(head))  # from the service, which started this process
    return job, pipe.read(data)


def send_reply(pipe: IO[bytes], reply: dict[str, Any], data: bytes | memoryview = b"") -> None:
    head = json.dumps(reply).encode()
    pipe.write(_LENGTHS.pack(len(head), len(data)) + head)
    pipe.write(data)
    pipe.flush()


def receive_reply(pipe: IO[bytes], most: int) -> tuple[dict[str, Any], bytes]:
    """Raises EOFError when the process has died, or its reply is larger than `most` bytes."""
    head, data = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    if head > 1 << 16 or data > most:
        raise EOFError("a reply that is too large")
    try:
        reply = parse_json(_exactly(pipe, head), "a reply", "report")
    except BundleError as error:
        raise EOFError("a reply that is not JSON") from error
    if not isinstance(reply, dict):
        raise EOFError("a reply that is no object")
    return reply, _exactly(pipe, data)


def _exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError("the decoder process has ended")
    return data
