"""Embed a listing of pictures into a store: decode ahead in threads, run in batches, write in order.

A picture that cannot be read is quarantined with its reason and costs nothing but itself. Row ids stay
with their rows whatever fails.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinodeploy.embedder import Embedder, batches_of_one_size
from dinodeploy.errors import ImageError
from dinodeploy.images import open_image
from dinodeploy.preprocess import Preprocess
from dinodeploy.store import EmbeddingWriter

Floats = NDArray[np.float32]
MAX_DECODERS = 8


@dataclass(frozen=True)
class Decoded:
    """One picture, ready for the engine, or the reason why not."""

    id: str
    pixels: Floats | None
    size: tuple[int, int]  # width and height of the original
    reason: str = ""


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_listing` did."""

    embedded: int
    quarantined: int
    seconds: float


def embed_listing(
    embedder: Embedder,
    ids: Sequence[str],
    writer: EmbeddingWriter,
    preprocess: Preprocess,
    *,
    batch_size: int,
    decoders: int | None = None,
    advance: Callable[[int, int], None] = lambda done, failed: None,
) -> EmbedReport:
    """Embed every picture of `ids` in order; `advance(done, failed)` is called as pictures finish."""
    started = time.perf_counter()
    done = failed = 0

    def good() -> Iterator[Decoded]:
        nonlocal failed
        for item in decode_ahead(ids, preprocess, decoders or default_decoders(), ahead=2 * batch_size):
            if item.pixels is not None:
                yield item
                continue
            writer.quarantine(item.id, item.reason)
            failed += 1
            advance(done, failed)

    batches = batches_of_one_size(good(), batch_size, _shape)
    for batch, outputs in run_ahead(embedder, batches):
        for row, item in enumerate(batch):
            writer.add(item.id, {name: outputs[name][row] for name in writer.outputs}, item.size)
        done += len(batch)
        advance(done, failed)
    return EmbedReport(done, failed, time.perf_counter() - started)


def _shape(item: Decoded) -> tuple[int, ...]:
    assert item.pixels is not None, "only what could be read is run"
    return item.pixels.shape


def run_ahead(
    embedder: Embedder, batches: Iterable[list[Decoded]]
) -> Iterator[tuple[list[Decoded], dict[str, Floats]]]:
    """Each batch with its outputs, in order, as many at once as the engine has lanes.

    Where it has two, the copies of one batch overlap the computation of the other.
    """
    lanes = embedder.backend.lanes
    running: deque[tuple[list[Decoded], Future[dict[str, Floats]]]] = deque()
    with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
        try:
            for batch in batches:
                pixels = np.stack([item.pixels for item in batch if item.pixels is not None])
                running.append((batch, pool.submit(embedder.run, pixels)))
                if len(running) == lanes:
                    oldest, outputs = running.popleft()
                    yield oldest, outputs.result()
            while running:
                oldest, outputs = running.popleft()
                yield oldest, outputs.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def default_decoders() -> int:
    """One decoding thread a core: Pillow lets go of the interpreter while it decodes."""
    return min(os.cpu_count() or 1, MAX_DECODERS)


def decode_ahead(ids: Sequence[str], preprocess: Preprocess, threads: int, ahead: int) -> Iterator[Decoded]:
    """Decode in `threads` threads, in order, never more than `ahead` pictures beyond the consumer."""
    waiting: deque[Future[Decoded]] = deque()
    remaining = iter(ids)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for id_ in remaining:
                waiting.append(pool.submit(_decode, id_, preprocess))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _decode(id_: str, preprocess: Preprocess) -> Decoded:
    try:
        image = open_image(id_)
        return Decoded(id_, preprocess(image), image.size)
    except ImageError as error:
        return Decoded(id_, None, (0, 0), str(error))
