"""Embed the shards that a store still lacks: the stages of the pipeline, connected."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import UnavailableError
from dinodeploy.images.batches import gather_by_size
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.decode import TIME_LIMIT, Decoded
from dinodeploy.pipeline.decoders import Decode, Decoders, choose_decoders, open_decoders
from dinodeploy.pipeline.pooling import Outputs, pick
from dinodeploy.pipeline.progress import Advance, Log
from dinodeploy.pipeline.run_batches import Batch, EndOfShard, pending_batches, run_batches
from dinodeploy.pipeline.runner import Runner
from dinodeploy.pipeline.stages import Stages
from dinodeploy.sources import Source
from dinodeploy.store.plan import Plan
from dinodeploy.store.shard import Quarantined


class Rows(Protocol):
    """The images of one shard while they are made: `store.shard.ShardRows`, and others like it."""

    outputs: tuple[str, ...]

    def add(self, position: int, id: str, values: Mapping[str, FloatArray], size: tuple[int, int]) -> str: ...

    def quarantine(self, position: int, id: str, reason: str) -> None: ...


class Finished(Protocol):
    """A shard that an earlier run has finished."""

    @property
    def images(self) -> int: ...
    @property
    def quarantined(self) -> list[Quarantined]: ...


RowsT = TypeVar("RowsT", bound=Rows)


class ShardStore(Protocol[RowsT]):
    """What shards are committed to: `store.writer.Store`, and others like it."""

    plan: Plan

    @property
    def kept(self) -> Sequence[Finished]: ...
    @property
    def remaining(self) -> list[int]: ...
    def prepare(self) -> None: ...
    def to_embed(self, index: int) -> Sequence[int]: ...
    def start(self, index: int) -> RowsT: ...
    def commit(self, index: int, rows: RowsT) -> Any: ...


@dataclass(frozen=True)
class RunReport:
    """What one run of the pipeline did: images embedded and quarantined in it, and its `seconds`.

    kept: images of this process's part that an earlier run had finished. kept_quarantined: how many of them
        were quarantined.
    """

    embedded: int
    quarantined: int
    kept: int
    kept_quarantined: int
    seconds: float
    stages: Stages

    @property
    def rate(self) -> float:
        """Images embedded per second."""
        return self.embedded / max(self.seconds, 1e-9)

    @property
    def images(self) -> int:
        """All images of this process's part."""
        return self.kept + self.embedded + self.quarantined

    @property
    def all_quarantined(self) -> int:
        return self.kept_quarantined + self.quarantined


def embed_source(
    embedder: Runner,
    source: Source,
    store: ShardStore[RowsT],
    preprocess: Preprocess,
    batch_size: int | None = None,
    workers: int | None = None,
    time_limit: float = TIME_LIMIT,
    limits: ImageLimits = DEFAULT_LIMITS,
    advance: Advance = lambda done, failed, bottleneck="": None,
    decode: Decode = "auto",
    log: Log = lambda text: None,
) -> RunReport:
    """Embed and commit every shard that `store` still lacks of its part.

    batch_size: images per batch; default: the plan's. workers: decoders; default: one per hardware thread.
    time_limit: seconds per image. limits: of one image. advance: called as images finish, with the stage that
    costs the most waiting time. decode: in threads or processes; default: `choose_decoders`.
    Raises UnavailableError when the disk or a folder of images disappears; committed shards stay.
    """
    batch_size = batch_size or store.plan.batch
    started = time.perf_counter()
    kept = sum(record.images for record in store.kept)
    kept_quarantined = sum(len(record.quarantined) for record in store.kept)
    run = _Run(embedder, store, advance)
    shards = store.remaining
    images = sum(len(store.to_embed(index)) for index in shards)
    how = choose_decoders(source, images, workers, decode)
    if how[0] == "processes":
        log(f"[decode] in {how[1]} processes")
    stream = open_decoders(
        source,
        map(run.begin, shards),
        preprocess,
        how,
        batch_size=batch_size,
        batches=pending_batches(embedder),
        time_limit=time_limit,
        limits=limits,
        log=log,
    )
    with closing(stream) as decoded:
        run.make(shards, decoded, batch_size)
    run.stages.total = time.perf_counter() - started
    return RunReport(run.done, run.failed, kept, kept_quarantined, run.stages.total, run.stages)


class _Run(Generic[RowsT]):
    """State of one run: the shards in progress, counts and timings."""

    def __init__(self, embedder: Runner, store: ShardStore[RowsT], advance: Advance) -> None:
        self._embedder = embedder
        self._store = store
        self._advance = advance
        self._rows: dict[int, RowsT] = {}  # of the shards in progress, oldest first
        self._begun: dict[int, Sequence[int]] = {}
        self._last_path: str | Path | None = None  # of the last readable image
        self.stages = Stages()
        self.done = self.failed = 0

    def begin(self, index: int) -> Sequence[int]:
        """Positions of images of a shard to embed. The first call, before they are read, begins its rows."""
        if index not in self._begun:
            self._rows[index] = self._store.start(index)
            self._begun[index] = self._store.to_embed(index)
        return self._begun[index]

    def make(self, shards: list[int], decoded: Decoders, batch_size: int) -> None:
        work = self._work(shards, decoded, batch_size)
        with _ShardWriter(self._store, self.stages) as writer:
            for item, outputs in run_batches(self._embedder, work, self.stages):
                if isinstance(item, EndOfShard):
                    writer.put(item.index, self._rows.pop(item.index))
                    continue
                self._keep(next(iter(self._rows.values())), item, outputs)
                decoded.release(item)
                writer.check()

    def _work(
        self, shards: list[int], decoded: Iterator[Decoded], batch_size: int
    ) -> Iterator[Batch | EndOfShard]:
        """The batches of every shard, each shard followed by its end marker. No batch spans two shards."""
        for index in shards:
            images = islice(self._timed(decoded), len(self.begin(index)))
            rows = self._rows[index]
            yield from gather_by_size(self._readable(images, rows), batch_size, attrgetter("pixels.shape"))
            yield EndOfShard(index)

    def _timed(self, decoded: Iterator[Decoded]) -> Iterator[Decoded]:
        waited, worked = self.stages.waited, self.stages.worked
        while True:
            started = time.perf_counter()  # without `Stages.waiting`: per image, it is too slow
            item = next(decoded, None)
            waited["decode"] += time.perf_counter() - started
            if item is None:
                return
            worked["decode"] += item.seconds
            yield item

    def _readable(self, items: Iterable[Decoded], rows: Rows) -> Iterator[Decoded]:
        """The readable images; the others are quarantined."""
        for item in items:
            if item.pixels is not None:
                self._last_path = item.path
                yield item
                continue
            self._check_folder()
            self._fail(rows, item, item.reason)

    def _keep(self, rows: Rows, batch: Batch, outputs: Outputs) -> None:
        picked = pick(outputs, rows.outputs)
        for row, item in enumerate(batch):
            values = {name: picked[name][row] for name in rows.outputs}
            reason = rows.add(item.position, item.id, values, item.size)
            if reason:
                self._fail(rows, item, reason)
            else:
                self.done += 1
        self._advance(self.done, self.failed, self.stages.bottleneck)

    def _fail(self, rows: Rows, item: Decoded, reason: str) -> None:
        rows.quarantine(item.position, item.id, reason)
        self.failed += 1
        self._advance(self.done, self.failed, self.stages.bottleneck)

    def _check_folder(self) -> None:
        """After a failed image: if the folder read a moment ago is gone, the disk is gone, so stop."""
        folder = None if self._last_path is None else Path(self._last_path).parent
        if folder is not None and not (folder.is_dir() and any(folder.iterdir())):
            raise UnavailableError(
                f"{folder} disappeared while its images were read; restore it and run the same command again"
            )


class _ShardWriter(Generic[RowsT]):
    """Commits shards in a thread, at most one shard behind the pipeline."""

    def __init__(self, store: ShardStore[RowsT], stages: Stages) -> None:
        self._store = store
        self._stages = stages
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: Future[None] | None = None

    def __enter__(self) -> _ShardWriter[RowsT]:
        self._pool.submit(self._store.prepare)  # an error here comes up again in the first commit
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown(wait=True)  # commits a complete shard even when the run is interrupted

    def put(self, index: int, rows: RowsT) -> None:
        """Commit a shard after the previous one. Raises what the previous commit raised."""
        self._wait()
        self._pending = self._pool.submit(self._commit, index, rows)

    def check(self) -> None:
        """Raise what the last commit raised, if it is done."""
        if self._pending is not None and self._pending.done():
            self._wait()

    def _wait(self) -> None:
        if self._pending is not None:
            with self._stages.waiting("write"):
                self._pending.result()
            self._pending = None

    def _commit(self, index: int, rows: RowsT) -> None:
        started = time.perf_counter()
        self._store.commit(index, rows)
        self._stages.worked["write"] += time.perf_counter() - started
