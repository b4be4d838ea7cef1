"""Make one shard at a time, in any process that sees the same files: the worker of a cluster.

Shard `index` is the part `index + 1` of n parts, where n is the number of shards (`--shards i/n`), so a
killed worker leaves what a killed process leaves: nothing, or a complete shard.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinodeploy.embedder import Embedder
from dinodeploy.errors import UnavailableError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.pipeline import RunReport, embed_source
from dinodeploy.sources import FileSource, Source, SourceOptions, open_source, origins_of
from dinodeploy.store.plan import Plan, hash_listing, read_plan
from dinodeploy.store.writer import Store


@dataclass(frozen=True)
class Job:
    """What every worker needs to know. Paths are relative to `folder`, as they were given.

    listed: the source, if it consists of files only; a worker opens other sources itself.
    engine_options: of `Embedder.open`.
    """

    folder: Path
    images: tuple[str, ...]
    source_options: SourceOptions
    listed: FileSource | None
    engine: Path
    out: Path
    plan: Plan
    preprocess: Preprocess
    batch: int | None
    decoders: int
    time_limit: float
    engine_options: dict[str, Any] = field(default_factory=dict)


class ShardWorker:
    """Opens engine and source for its first shard, and keeps them. It owns its process."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._opened: tuple[Embedder, Source] | None = None

    def make(self, index: int) -> RunReport:
        """Make one shard, unless it is finished already.

        Raises UnavailableError if this machine does not see the same images, bundle and store.
        """
        if self._opened is None:
            self._opened = self._open()
        embedder, source = self._opened
        job = self._job
        self._check_store()
        with Store(job.out, job.plan, part=(index + 1, job.plan.shards)) as store:
            return embed_source(
                embedder,
                source,
                store,
                job.preprocess,
                batch_size=job.batch,
                workers=job.decoders,
                time_limit=job.time_limit,
            )

    def _open(self) -> tuple[Embedder, Source]:
        job = self._job
        try:
            os.chdir(job.folder)
        except OSError as error:
            raise self._blind(f"the folder {job.folder} ({error.strerror})") from error
        self._check_store()
        source = job.listed or open_source(job.images, job.source_options)
        if hash_listing(source.ids, origins_of(source)) != job.plan.listing_sha256:
            raise self._blind("the same images")
        embedder = Embedder.open(job.engine, **job.engine_options)
        if embedder.engine.fingerprint(job.preprocess) != job.plan.fingerprint:
            engine = embedder.engine.path
            embedder.close()
            raise UnavailableError(
                f"{socket.gethostname()} would run {engine}, wanted the engine that the store was started "
                "with: name that engine's file and --device"
            )
        return embedder, source

    def _check_store(self) -> None:
        """A worker that started a store on its own disk would lose its shards."""
        if read_plan(self._job.out) is None:
            raise self._blind(f"the store {self._job.out}")

    def _blind(self, what: str) -> UnavailableError:
        return UnavailableError(
            f"{socket.gethostname()} does not see {what}; every machine must see images, bundle and --out "
            "at the same paths"
        )
