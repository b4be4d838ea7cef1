"""`Service`: image bytes to embeddings, within the limits and without HTTP.

Images are decoded in a thread pool, batched, and run on one engine. If a request is cancelled or times out,
its images leave the queue.

Shapes: H W input pixels, h w patch grid, D embed_dim.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dinodeploy.arrays import FloatArray
from dinodeploy.batcher import Batcher, Row
from dinodeploy.embedder import Embedder
from dinodeploy.errors import BusyError, ImageError, ImageTooLargeError, MisuseError
from dinodeploy.hardware.cores import hardware_threads
from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.pooling import pick, with_pooled
from dinodeploy.serve.fetch import fetch
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.settings import Settings

if TYPE_CHECKING:
    from dinodeploy.search import Hit
    from dinodeploy.serve.neighbours import Neighbours

T = TypeVar("T")
FETCHERS = 16  # parallel URL fetches, in a pool of their own so that slow servers do not delay decoding
SOON = 1  # Retry-After of a busy service, in seconds
MOST_NEIGHBOURS = 1000


@dataclass(frozen=True)
class Question:
    """One image of a request: its bytes, or the URL to fetch."""

    name: str
    data: bytes = b""
    url: str | None = None


@dataclass(frozen=True)
class Answer:
    """Outputs of one image. width, height: of the original, upright. size: (H, W) of the model input."""

    name: str
    width: int
    height: int
    size: tuple[int, int]
    outputs: Row


@dataclass(frozen=True)
class _Prepared:
    pixels: FloatArray  # [3,H,W]
    width: int
    height: int


class Service:
    """An opened engine with its queue. Close it, or use it in a `with` statement."""

    def __init__(self, settings: Settings, embedder: Embedder) -> None:
        self.settings = settings
        self.embedder = embedder
        self.draining = False
        self.active = 0  # open requests
        self.observe: Callable[[int, float], None] = lambda size, seconds: None
        self.fingerprint = embedder.engine.fingerprint(embedder.preprocess)
        self._neighbours: Neighbours | None = None
        if settings.index is not None:
            from dinodeploy.serve.neighbours import Neighbours

            self._neighbours = Neighbours(settings.index, embedder, settings.max_pixels)
        self.output_names = with_pooled(embedder.output_names)
        self._decoders = ThreadPoolExecutor(math.ceil(hardware_threads()), thread_name_prefix="decode")
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._batcher = Batcher(
            embedder,
            max_batch=settings.max_batch,
            max_wait=settings.max_wait,
            queue_size=settings.queue,
            observe=lambda size, seconds: self.observe(size, seconds),
        )

    @classmethod
    def open(cls, settings: Settings) -> Service:
        """Open the engine and the index. Raises as `Embedder.open` and `Neighbours`."""
        embedder = Embedder.open(
            settings.bundle,
            device=settings.device,
            threads=settings.threads,
            weight_budget=settings.weight_budget,
            require_signature=settings.require_signature,
            allow_unverified=settings.allow_unverified,
        )
        try:
            return cls(settings, embedder)
        except BaseException:
            embedder.close()
            raise

    @property
    def pending(self) -> int:
        """Images that wait for the engine or are running."""
        return self._batcher.pending

    async def embed(
        self, questions: Sequence[Question], names: Sequence[str], imgsz: tuple[int, int] | None = None
    ) -> list[Answer]:
        """The outputs `names` of every image, in order. Raises Refused."""
        self._check_request(questions, names)
        return await self._in_time(self._embed(questions, names, self._preprocess(imgsz)))

    async def search(
        self, question: Question, k: int, filter: str | None = None, text: str | None = None
    ) -> list[Hit]:
        """The `k` nearest indexed images, as `Index.search`. Raises Refused, 404 without an index."""
        return await self._in_time(self._search(question, k, filter, text))

    async def thumbnail(self, id: str) -> bytes:
        """A small JPEG of an indexed image. Raises Refused, 404."""
        return await self._in_time(self._in_thread(self.neighbours.thumbnail, id))

    @property
    def has_index(self) -> bool:
        return self._neighbours is not None

    @property
    def neighbours(self) -> Neighbours:
        """The index. Raises Refused, 404 without one."""
        if self._neighbours is None:
            raise Refused(404, "this service has no index; start it with --index EMBEDDINGS")
        return self._neighbours

    def close(self) -> None:
        """Run the queued images, then close the engine."""
        for pool in (self._fetchers, self._decoders):
            pool.shutdown(cancel_futures=True)
        self._batcher.close()
        if self._neighbours is not None:
            self._neighbours.close()
        self.embedder.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    async def _embed(
        self, questions: Sequence[Question], names: Sequence[str], preprocess: Preprocess
    ) -> list[Answer]:
        prepared = await _gather(self._prepare(question, preprocess) for question in questions)
        try:
            futures = self._batcher.submit_pixels([one.pixels for one in prepared])
        except BusyError as error:
            raise Refused(503, str(error), SOON) from error
        except MisuseError as error:  # the batcher is closed
            raise Refused(503, "the service is shutting down", SOON) from error
        rows = await _gather(asyncio.wrap_future(future) for future in futures)
        return [
            Answer(question.name, one.width, one.height, _size(one.pixels), _pick(row, names))
            for question, one, row in zip(questions, prepared, rows, strict=True)
        ]

    async def _search(self, question: Question, k: int, filter: str | None, text: str | None) -> list[Hit]:
        index = self.neighbours
        (answer,) = await self._embed([question], [index.output], index.preprocess)
        hits: list[Hit] = await self._in_thread(index.search, answer.outputs[index.output], k, filter, text)
        return hits

    async def _in_time(self, work: Awaitable[T]) -> T:
        """Wait for `work` up to the time limit of a request. Raises Refused, 503."""
        limit = self.settings.time_limit
        try:
            return await asyncio.wait_for(work, limit)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise Refused(503, f"not done within {limit:g} s; retry later", SOON) from error

    def _check_request(self, questions: Sequence[Question], names: Sequence[str]) -> None:
        if not questions:
            raise Refused(422, "the request has no image")
        most = min(self.settings.max_images, self.settings.queue)
        if len(questions) > most:
            raise Refused(413, f"{len(questions)} images in one request; wanted at most {most}")
        for name in names:
            if name not in self.output_names or list(names).count(name) > 1:
                known = ", ".join(self.output_names)
                raise Refused(
                    422, f"outputs: {name[:40]!r} is unknown or repeated; wanted distinct names of {known}"
                )

    def _preprocess(self, imgsz: tuple[int, int] | None) -> Preprocess:
        try:
            preprocess = self.embedder.preprocess_for(imgsz)
        except MisuseError as error:
            raise Refused(422, f"imgsz: {error}") from error
        patches = preprocess.height * preprocess.width // preprocess.patch_size**2
        if imgsz is not None and patches > self.settings.max_patches:
            raise Refused(
                422,
                f"imgsz: {patches} patches of {preprocess.patch_size} px; "
                f"wanted at most {self.settings.max_patches}",
            )
        return preprocess

    async def _prepare(self, question: Question, preprocess: Preprocess) -> _Prepared:
        data = question.data
        if question.url is not None:
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(self._fetchers, fetch, question.url, self.settings.max_bytes)
        prepared: _Prepared = await self._in_thread(self._decode, question.name, data, preprocess)
        return prepared

    def _decode(self, name: str, data: bytes, preprocess: Preprocess) -> _Prepared:
        """Decode and preprocess one image. Raises Refused."""
        try:
            image = open_image(data, max_pixels=self.settings.max_pixels)
        except ImageError as error:
            status = 413 if isinstance(error, ImageTooLargeError) else 422
            _, _, reason = str(error).partition(": ")  # the message begins with a generic name of the bytes
            raise Refused(status, f"{name}: {reason}") from error
        height, width = preprocess.target_size(*image.size)
        if not self.embedder.backend.takes(height, width):
            raise Refused(422, f"{name}: the engine was not built for {height}x{width} px")
        return _Prepared(preprocess(image), *image.size)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)


async def _gather(awaitables: Any) -> list[Any]:
    """All results in order. The first failure cancels the others and is raised once they have ended."""
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _size(pixels: FloatArray) -> tuple[int, int]:
    return int(pixels.shape[1]), int(pixels.shape[2])


def _pick(row: Row, names: Sequence[str]) -> Row:
    """The outputs `names` of one image; pooled outputs are computed."""
    chosen = pick({name: value[None] for name, value in row.items()}, names)
    return {name: value[0] for name, value in chosen.items()}
