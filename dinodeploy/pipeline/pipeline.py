"""The pipeline itself, over the shards that a store still lacks. See the package.

Shapes: B batch, D dimension.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import TracebackType

from dinodeploy.embedder import Embedder
from dinodeploy.errors import UnavailableError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.batches import bucket
from dinodeploy.pipeline.decode import TIME_LIMIT, Decoded, decode_source, default_decoders, pictures_ahead
from dinodeploy.pipeline.lanes import run_ahead
from dinodeploy.pipeline.pooling import Outputs, pick
from dinodeploy.pipeline.stages import Stages
from dinodeploy.sources import Source
from dinodeploy.store.shard_rows import ShardRows
from dinodeploy.store.writer import Store

Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_source` did: embedded and quarantined in this run, which took `seconds`.

    kept, kept_quarantined: pictures of this process's part that an earlier run had done, and those of them
    that could not be read.
    """

    embedded: int
    quarantined: int
    kept: int
    kept_quarantined: int
    seconds: float
    stages: Stages

    @property
    def rate(self) -> float:
        """Pictures a second of this run."""
        return self.embedded / max(self.seconds, 1e-9)

    @property
    def pictures(self) -> int:
        """All of this process's part."""
        return self.kept + self.embedded + self.quarantined

    @property
    def all_quarantined(self) -> int:
        return self.kept_quarantined + self.quarantined


def embed_source(
    embedder: Embedder,
    source: Source,
    store: Store,
    preprocess: Preprocess,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    time_limit: float = TIME_LIMIT,
    advance: Advance = lambda done, failed, bottleneck: None,
) -> EmbedReport:
    """Make the shards that `store` lacks of its part, and commit each.

    batch_size: pictures a run; the plan's by default. workers: decoding threads. time_limit: seconds for one
    picture. `advance(done, failed, bottleneck)` is called as pictures finish, with the stage that is waited
    for most. Raises UnavailableError when the disk or a folder of pictures is gone; what was committed stays.
    """
    batch_size = batch_size or store.plan.batch
    workers = workers or default_decoders()
    started = time.perf_counter()
    kept = sum(record.pictures for record in store.kept)
    kept_quarantined = sum(len(record.quarantined) for record in store.kept)
    run = _Run(embedder, store, Stages(), advance)
    shards = store.remaining
    positions = chain.from_iterable(store.plan.shard(index) for index in shards)
    ahead = pictures_ahead(batch_size, workers)
    decoded = decode_source(source, positions, preprocess, workers, ahead, time_limit)
    with closing(decoded):
        run.make(shards, decoded, batch_size)
    run.stages.total = time.perf_counter() - started
    return EmbedReport(run.done, run.failed, kept, kept_quarantined, run.stages.total, run.stages)


class _Run:
    """The state of one run: the shards under way, and what is counted and timed."""

    def __init__(self, embedder: Embedder, store: Store, stages: Stages, advance: Advance) -> None:
        self._embedder = embedder
        self._store = store
        self._advance = advance
        self._under_way: deque[tuple[int, ShardRows]] = deque()  # oldest first
        self._last_folder: Path | None = None  # of a picture that could be read
        self.stages = stages
        self.done = self.failed = 0

    def make(self, shards: list[int], decoded: Iterator[Decoded], batch_size: int) -> None:
        batches = self._batches(shards, decoded, batch_size)
        with _ShardWriter(self._store, self.stages) as writer:
            for batch, outputs in run_ahead(self._embedder, batches, self.stages):
                index, rows = self._under_way[0]
                if not batch:
                    writer.put(index, rows)
                    self._under_way.popleft()
                    continue
                self._keep(rows, batch, outputs)
                writer.check()

    def _batches(self, shards: list[int], decoded: Iterator[Decoded], size: int) -> Iterator[list[Decoded]]:
        """The batches of every shard, and after each shard an empty one."""
        for index in shards:
            rows = ShardRows(self._store.plan.outputs)
            self._under_way.append((index, rows))
            pictures = islice(self._timed(decoded), len(self._store.plan.shard(index)))
            yield from bucket(self._readable(pictures, rows), size)
            yield []

    def _timed(self, decoded: Iterator[Decoded]) -> Iterator[Decoded]:
        while True:
            with self.stages.waiting("decode"):
                item = next(decoded, None)
            if item is None:
                return
            self.stages.worked["decode"] += item.seconds
            yield item

    def _readable(self, items: Iterable[Decoded], rows: ShardRows) -> Iterator[Decoded]:
        """The pictures that can be run; the others are quarantined."""
        for item in items:
            if item.pixels is not None:
                self._last_folder = item.path.parent if item.path is not None else None
                yield item
                continue
            self._check_folder()
            self._fail(rows, item, item.reason)

    def _keep(self, rows: ShardRows, batch: list[Decoded], outputs: Outputs) -> None:
        picked = pick(outputs, rows.outputs)
        for place, item in enumerate(batch):
            values = {name: picked[name][place] for name in rows.outputs}
            reason = rows.add(item.position, item.id, values, item.size)
            if reason:
                self._fail(rows, item, reason)
            else:
                self.done += 1
        self._advance(self.done, self.failed, self.stages.bottleneck)

    def _fail(self, rows: ShardRows, item: Decoded, reason: str) -> None:
        rows.quarantine(item.position, item.id, reason)
        self.failed += 1
        self._advance(self.done, self.failed, self.stages.bottleneck)

    def _check_folder(self) -> None:
        """A picture failed. If a folder that was read a moment ago is gone, so is the disk: stop."""
        folder = self._last_folder
        if folder is not None and not (folder.is_dir() and any(folder.iterdir())):
            raise UnavailableError(
                f"{folder} has vanished while its pictures were read; "
                "bring it back and run the same command again"
            )


class _ShardWriter:
    """Commits shards in a thread, one behind the pipeline."""

    def __init__(self, store: Store, stages: Stages) -> None:
        self._store = store
        self._stages = stages
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: Future[None] | None = None

    def __enter__(self) -> _ShardWriter:
        self._pool.submit(self._store.prepare)  # what goes wrong there goes wrong again when it is needed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown(wait=True)  # a shard that is whole is committed even if the run is stopped

    def put(self, index: int, rows: ShardRows) -> None:
        """Commit a shard once the one before it is. Raises what that one raised."""
        self._wait()
        self._pending = self._pool.submit(self._commit, index, rows)

    def check(self) -> None:
        """Raise what the last commit raised, as soon as that is known."""
        if self._pending is not None and self._pending.done():
            self._wait()

    def _wait(self) -> None:
        if self._pending is not None:
            with self._stages.waiting("write"):
                self._pending.result()
            self._pending = None

    def _commit(self, index: int, rows: ShardRows) -> None:
        started = time.perf_counter()
        self._store.commit(index, rows)
        self._stages.worked["write"] += time.perf_counter() - started
