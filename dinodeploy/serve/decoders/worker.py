"""One decoder process: inspect, decode and preprocess images within limits, until its input ends.

The limits are the operating system's where it has them: address space (RLIMIT_AS), CPU seconds per image
(RLIMIT_CPU; the process is killed), no files written, no core dump. Elsewhere only the service's clock limits
a decoder.

Imports numpy and Pillow, never a model's runtime.
"""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from dinodeploy.errors import ImageError, ImageTooLargeError
from dinodeploy.hardware.child_process import take_pipes
from dinodeploy.images.limits import ImageLimits, one_thread_per_image
from dinodeploy.images.open import open_image, open_reduced, whole
from dinodeploy.serve.decoders.formats import MAX_SCANS, inspect_image
from dinodeploy.serve.decoders.wire import Job, receive_job, send_reply

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_TOO_LARGE = "needs more memory than a decoder may use (--decode-memory); shrink it or save it as JPEG"
NICE = 10  # of a process that decodes large images: answering comes first


def main(memory: int, nice: int) -> None:
    """Decode what arrives on stdin. memory: bytes that an image may need beyond the idle process."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole process group; the service decides
    jobs, replies = take_pipes()
    if hasattr(os, "nice") and nice:
        os.nice(nice)
    one_thread_per_image()
    _limit_memory(memory)
    send_reply(replies, {"ready": True})
    while (received := receive_job(jobs)) is not None:
        job, data = received
        _limit_seconds(job.seconds)
        try:
            reply, result = run_job(job, data)
        except MemoryError:
            reply, result = _refused(413, _TOO_LARGE), b""
        del data, received
        send_reply(replies, reply, result)


def run_job(job: Job, data: bytes) -> tuple[dict[str, Any], bytes | memoryview]:
    """The reply to one job, and its bytes: pixels of an engine input, or a JPEG. Never raises ImageError."""
    if job.kind == "ping":
        return {"done": True}, b""
    try:
        if job.kind == "thumbnail":
            return {"done": True}, _thumbnail(Path(os.fsdecode(data)), job)
        assert job.preprocess is not None
        found = inspect_image(data, job.accepted)
        if found.pixels > job.max_pixels:
            raise ImageTooLargeError(
                f"got {found.pixels} pixels, wanted at most {job.max_pixels}; shrink it first"
            )
        if found.seconds >= job.heavy_from:
            return {"heavy": found.seconds, "pixels": found.pixels}, b""
        image, (width, height) = open_reduced(data, whole, limits=_limits(job))
        pixels = job.preprocess(image)
        assert pixels.dtype == job.preprocess.dtype
        reply = {"done": True, "width": width, "height": height, "shape": list(pixels.shape)}
        return reply, np.ascontiguousarray(pixels).data.cast("B")
    except ImageError as error:
        if isinstance(error.__cause__, MemoryError):
            raise MemoryError from error
        return _refused(413 if isinstance(error, ImageTooLargeError) else 422, _reason(error)), b""


def _limits(job: Job) -> ImageLimits:
    return ImageLimits(job.max_pixels, job.max_pixels, MAX_SCANS, job.accepted, python_decoders=False)


def _reason(error: ImageError) -> str:
    """Without the generic name of the bytes that messages of `open_image` begin with."""
    return str(error).removeprefix("bytes: ")


def _refused(status: int, reason: str) -> dict[str, Any]:
    return {"refused": reason, "status": status}


def _thumbnail(path: Path, job: Job) -> bytes:
    image = open_image(path, limits=_limits(job))
    image.thumbnail((job.side, job.side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _limit_memory(memory: int) -> None:
    if resource is None:
        return
    idle = _address_space()
    for name, most in (("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0), ("RLIMIT_AS", idle + memory)):
        if hasattr(resource, name):
            try:
                resource.setrlimit(getattr(resource, name), (most, most))
            except (ValueError, OSError):  # macOS does not limit the address space
                continue


def _address_space() -> int:
    """Bytes of address space in use; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 1 << 30


def _limit_seconds(seconds: int) -> None:
    """Kill this process when it has used `seconds` more of CPU time."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
