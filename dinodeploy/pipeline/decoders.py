"""Choose how images are decoded: in threads of this process, or in processes of their own.

    threads      small jobs and small machines, and images that only this process can read
    processes    from `PROCESS_CORES` decoders and `IMAGES_PER_PROCESS` images for each on

The rule counts cores and images and never measures time. Pixels are the same either way.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Literal, Protocol

from dinodeploy.errors import MisuseError, reason_of
from dinodeploy.hardware.cores import hardware_threads
from dinodeploy.images.limits import ImageLimits
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.decode import Decoded, decode_source, default_decoders, images_ahead
from dinodeploy.sources import Source

Decode = Literal["auto", "threads", "processes"]

PROCESS_CORES = 4  # decoders; with fewer, threads keep every core busy
IMAGES_PER_PROCESS = 64  # starting a process takes as long as decoding 20 to 50 images


class Decoders(Protocol):
    """Images in order; `release` them when their pixels are no longer needed."""

    def __iter__(self) -> Iterator[Decoded]: ...
    def __next__(self) -> Decoded: ...
    def release(self, items: Sequence[Decoded]) -> None: ...
    def close(self) -> None: ...


class ThreadDecoders:
    """`decode_source` with the methods of `Decoders`."""

    def __init__(self, stream: Generator[Decoded, None, None]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Decoded]:
        return self

    def __next__(self) -> Decoded:
        return next(self._stream)

    def release(self, items: Sequence[Decoded]) -> None: ...

    def close(self) -> None:
        self._stream.close()


def parse_decode(text: str) -> Decode:
    """Raises MisuseError for an unknown way to decode."""
    for known in ("auto", "threads", "processes"):
        if text == known:
            return known
    raise MisuseError(f"decode is {text!r}; wanted auto, threads or processes")


def choose_decoders(
    source: Source, images: int, workers: int | None = None, decode: Decode = "auto"
) -> tuple[Decode, int]:
    """Threads or processes, and how many, for so many images. workers: how many were asked for."""
    reason = _why_not(source)
    if decode == "processes" and reason:
        raise MisuseError(f"decode processes: {reason}; use threads")
    many = workers or math.ceil(hardware_threads())
    if decode == "processes" or (
        decode == "auto" and not reason and many >= PROCESS_CORES and images >= IMAGES_PER_PROCESS * many
    ):
        return "processes", max(1, min(many, images))
    return "threads", workers or default_decoders()


def open_decoders(
    source: Source,
    shards: Iterable[Sequence[int]],
    preprocess: Preprocess,
    how: tuple[Decode, int],
    *,
    batch_size: int,
    batches: int,
    time_limit: float,
    limits: ImageLimits,
    log: Callable[[str], None],
) -> Decoders:
    """Start decoding the images at the positions of `shards`, in order, as they are asked for.

    how: as `choose_decoders` says. batches: how many the consumer holds before it releases them.
    Where processes cannot be had, threads do the work, and `log` tells why.
    """
    kind, count = how
    if kind == "processes":
        from dinodeploy.pipeline.processes.pool import ProcessDecoders

        try:
            return ProcessDecoders(
                source, shards, preprocess, count, (batch_size, batches), time_limit, limits
            )
        except OSError as error:
            count = default_decoders()
            log(f"[decode] in {count} threads: processes cannot be had: {reason_of(error)}")
    ahead = images_ahead(batch_size, count)
    positions = chain.from_iterable(shards)
    return ThreadDecoders(decode_source(source, positions, preprocess, count, ahead, time_limit, limits))


def _why_not(source: Source) -> str:
    """Why images of `source` cannot be decoded in processes; empty if they can."""
    if os.name != "posix":
        return "this system passes no memory to other processes"
    if getattr(sys, "frozen", False) or not sys.executable:
        return "there is no Python program to start"
    if getattr(source, "reader", None) is None:
        return "only this process can read these images"
    return ""
