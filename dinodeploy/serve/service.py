"""`Service`: image bytes to embeddings, within the limits and without HTTP.

Images are decoded in processes of their own, batched, and run on one engine. If a request is cancelled or
times out, its images leave the queue. Images in flight share a budget of patches: their pixels and outputs
are in memory until the answer is sent.

Shapes: H W input pixels, h w patch grid, D embed_dim.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from dinodeploy.arrays import FloatArray, sides_of
from dinodeploy.batcher import Batcher, Row
from dinodeploy.embedder import Embedder
from dinodeploy.errors import BusyError, MisuseError
from dinodeploy.hardware.cores import hardware_threads
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.pooling import pick, with_pooled
from dinodeploy.serve.decoders.pool import Decoded, DecoderPool
from dinodeploy.serve.decoders.wire import Job
from dinodeploy.serve.fetch import fetch
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.settings import Settings
from dinodeploy.serve.words import Words

if TYPE_CHECKING:
    from dinodeploy.search import Hit
    from dinodeploy.serve.neighbours import Neighbours

T = TypeVar("T")
FETCHERS = 16  # parallel URL fetches, in a pool of their own so that slow servers delay nothing else
MOST_FETCHES = 64  # URLs that are fetched or wait for it
SOON = 1  # Retry-After of a busy service, in seconds
MOST_NEIGHBOURS = 1000
THUMBNAIL = 320  # pixels of the longer side
ANSWERS = 2  # of the largest size that are sent at the same time
FEW_PATCHES = 1024  # of a request that may use the last quarter of the budget


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


class Service:
    """An opened engine with its queue. Close it, or use it in a `with` statement."""

    def __init__(self, settings: Settings, embedder: Embedder, decoders: DecoderPool | None = None) -> None:
        """decoders: started by `open`, while the engine is being opened."""
        self.settings = settings
        self.embedder = embedder
        self.draining = False
        self.active = 0  # open requests
        self.working = 0  # those whose body is complete
        self.observe: Callable[[int, float], None] = lambda size, seconds: None
        self.fingerprint = embedder.engine.fingerprint(embedder.preprocess)
        self._neighbours: Neighbours | None = None
        if settings.index is not None:
            from dinodeploy.serve.neighbours import Neighbours

            self._neighbours = Neighbours(settings.index, embedder)
        self.words = Words.open(embedder.bundle, settings)
        self.output_names = with_pooled(embedder.output_names)
        self._patches = 0  # of images in flight
        self._fetching = 0
        self._answers = 0  # bytes of large answers that are being sent
        self.encoders = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._decoders = decoders or start_decoders(settings)
        self._searches = ThreadPoolExecutor(math.ceil(hardware_threads()), thread_name_prefix="search")
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._batcher = Batcher(
            embedder,
            max_batch=settings.max_batch,
            max_wait=settings.max_wait,
            queue_size=settings.queue,
            max_pixels=2 * settings.max_batch * embedder.preprocess.height * embedder.preprocess.width,
            observe=lambda size, seconds: self.observe(size, seconds),
        )

    @classmethod
    def open(cls, settings: Settings) -> Service:
        """Open the engine and the index. Raises as `Embedder.open` and `Neighbours`."""
        decoders = start_decoders(settings)
        try:
            embedder = Embedder.open(
                settings.bundle,
                device=settings.device,
                threads=settings.threads,
                weight_budget=settings.weight_budget,
                require_signature=settings.require_signature,
                allow_unverified=settings.allow_unverified,
            )
            try:
                return cls(settings, embedder, decoders)
            except BaseException:
                embedder.close()
                raise
        except BaseException:
            decoders.close()
            raise

    @property
    def ready(self) -> bool:
        """Whether requests can be answered: not stopping, and decoders that are not stuck."""
        return not self.draining and self._decoders.ready

    @property
    def load(self) -> int:
        """Requests that are being answered, without those that wait for large images to be decoded."""
        return self.working - min(self.working, self._decoders.parked)

    @property
    def pending(self) -> int:
        """Images that wait for the engine or are running."""
        return self._batcher.pending

    async def embed(
        self,
        questions: Sequence[Question],
        names: Sequence[str],
        imgsz: tuple[int, int] | None = None,
        bytes_per_number: float = 4,
    ) -> list[Answer]:
        """The outputs `names` of every image, in order. bytes_per_number: in the answer. Raises Refused."""
        self._check_request(questions, names)
        preprocess = self._preprocess(imgsz)
        self._check_answer(len(questions), names, preprocess, bytes_per_number)
        return await self.in_time(self._embed(questions, names, preprocess))

    async def search(
        self, question: Question, k: int, filter: str | None = None, text: str | None = None
    ) -> list[Hit]:
        """The `k` nearest indexed images, as `Index.search`. Raises Refused, 404 without an index."""
        return await self.in_time(self._search(question, k, filter, text))

    async def thumbnail(self, id: str) -> bytes:
        """A small JPEG of an indexed image. Raises Refused, 404."""
        path = await asyncio.get_running_loop().run_in_executor(self._searches, self.neighbours.path_of, id)
        job = self._job("thumbnail", side=THUMBNAIL)
        try:
            jpeg: bytes = await self.in_time(self._decode(job, os.fsencode(path), object()))
        except Refused as refused:
            if refused.status == 503:
                raise
            raise Refused(404, "this image is no longer where it was embedded from") from refused
        return jpeg

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
        for pool in (self._fetchers, self._searches, self.encoders):
            pool.shutdown(wait=False, cancel_futures=True)
        self._decoders.close()
        self._batcher.close()
        for opened in (self._neighbours, self.words):
            if opened is not None:
                opened.close()
        self.embedder.close()

    def kill_decoders(self) -> None:
        """Kill the decoder processes, for a process that ends without `close`."""
        self._decoders.kill()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    async def _embed(
        self, questions: Sequence[Question], names: Sequence[str], preprocess: Preprocess
    ) -> list[Answer]:
        patches = len(questions) * _patches_of(preprocess)
        self._reserve(patches)
        try:
            return await self._embed_reserved(questions, names, preprocess)
        finally:
            self._patches -= patches

    async def _embed_reserved(
        self, questions: Sequence[Question], names: Sequence[str], preprocess: Preprocess
    ) -> list[Answer]:
        group = object()
        prepared = await _gather(self._prepare(question, preprocess, group) for question in questions)
        try:
            futures = self._batcher.submit_pixels([one.pixels for one in prepared])
        except BusyError as error:
            raise Refused(503, str(error), SOON) from error
        except MisuseError as error:  # the batcher is closed
            raise Refused(503, "the service is shutting down", SOON) from error
        rows = await _gather(asyncio.wrap_future(future) for future in futures)
        return [
            Answer(question.name, one.width, one.height, sides_of(one.pixels), _pick(row, names))
            for question, one, row in zip(questions, prepared, rows, strict=True)
        ]

    async def _search(self, question: Question, k: int, filter: str | None, text: str | None) -> list[Hit]:
        index = self.neighbours
        (answer,) = await self._embed([question], [index.output], index.preprocess)
        return await self.nearest(answer.outputs[index.output], k, filter, text)

    async def nearest(self, vector: FloatArray, k: int, filter: str | None, text: str | None) -> list[Hit]:
        """The `k` indexed images nearest to `vector` [D], as `Index.search`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._searches, self.neighbours.search, vector, k, filter, text)

    async def in_time(self, work: Awaitable[T]) -> T:
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

    def hold_answer(self, size: int) -> Callable[[], None]:
        """Count an answer that is being sent. Returns what to call afterwards. Raises Refused."""
        most = self.settings.max_answer
        check_answer_size(size, most)
        if self._answers + size > ANSWERS * most:
            raise Refused(503, f"answers of {self._answers:,} bytes are being sent; retry later", SOON)
        self._answers += size

        def release() -> None:
            self._answers -= size

        return release

    def log_warnings(self, log: Callable[[str], None]) -> None:
        """Send what happens to decoder processes to `log`."""
        self._decoders.log = log

    def _check_answer(
        self, images: int, names: Sequence[str], preprocess: Preprocess, bytes_per_number: float
    ) -> None:
        """Raises Refused for an answer that would be larger than the limit, before anything is computed."""
        grids = sum(name.startswith(("patch", "layer_")) for name in names)
        numbers = images * grids * _patches_of(preprocess) * self.embedder.manifest.model.embed_dim
        check_answer_size(round(numbers * bytes_per_number), self.settings.max_answer)

    def _reserve(self, patches: int) -> None:
        """Raises Refused if the images in flight would take too much memory."""
        most = max(self.settings.queue * _patches_of(self.embedder.preprocess), 8 * self.settings.max_patches)
        if patches > most:
            raise Refused(413, f"{patches} patches in one request; wanted at most {most}; send fewer images")
        free = most if patches <= FEW_PATCHES else max(patches, most * 3 // 4)
        if self._patches + patches > free:
            raise Refused(503, f"{self._patches} patches are in flight; retry later", SOON)
        self._patches += patches

    async def _prepare(self, question: Question, preprocess: Preprocess, group: Hashable) -> Decoded:
        """Fetch, decode and preprocess one image. Raises Refused, which names it."""
        try:
            data = question.data if question.url is None else await self._fetch(question.url)
            decoded: Decoded = await self._decode(self._job("embed", preprocess), data, group)
        except Refused as refused:
            raise Refused(
                refused.status, f"{question.name}: {refused.message}", refused.retry_after
            ) from refused
        height, width = sides_of(decoded.pixels)
        if not self.embedder.backend.takes(height, width):
            raise Refused(422, f"{question.name}: the engine was not built for {height}x{width} px")
        return decoded

    async def _fetch(self, url: str) -> bytes:
        if self._fetching >= MOST_FETCHES:
            raise Refused(503, f"{self._fetching} URLs are being fetched; retry later", SOON)
        self._fetching += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._fetchers, fetch, url, self.settings.max_bytes)
        finally:
            self._fetching -= 1

    def _job(
        self, kind: Literal["embed", "thumbnail"], preprocess: Preprocess | None = None, side: int = 0
    ) -> Job:
        return Job(kind, self.settings.max_pixels, self.settings.formats, preprocess, side)

    async def _decode(self, job: Job, data: bytes, group: Hashable) -> Any:
        return await asyncio.wrap_future(self._decoders.submit(job, data, group))


def start_decoders(settings: Settings) -> DecoderPool:
    """The decoder processes of a service: one for each core, and one for small images."""
    count = math.ceil(hardware_threads())
    return DecoderPool(
        count,
        memory=settings.decode_bytes,
        pixels=settings.max_pixels * math.ceil(count / 4),
        seconds=settings.decode_seconds,
        waiting=max(settings.queue, settings.max_images),
    )


def check_answer_size(size: int, most: int) -> None:
    """Raises Refused, 413, if an answer of `size` bytes is larger than `most`."""
    if size > most:
        raise Refused(
            413,
            f"the answer would have {size:,} bytes; wanted at most {most:,}; ask for fewer images, "
            "outputs, a smaller imgsz, or encoding=base64",
        )


def _patches_of(preprocess: Preprocess) -> int:
    """Patches of one input; of a keep-aspect one, for an image twice as long as wide."""
    patches = preprocess.height * preprocess.width // preprocess.patch_size**2
    return min(2 * patches, preprocess.max_patches) if preprocess.steps.fit == "keep-aspect" else patches


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


def _pick(row: Row, names: Sequence[str]) -> Row:
    """The outputs `names` of one image; pooled outputs are computed."""
    chosen = pick({name: value[None] for name, value in row.items()}, names)
    return {name: value[0] for name, value in chosen.items()}
