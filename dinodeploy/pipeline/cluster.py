"""Make shards on a Ray cluster: one actor per worker, one task per shard; a killed worker loses nothing.

    connect(address)          local: start Ray on this machine; auto, ray://…: an existing cluster
    make_shards(ray, job, …)  give shards, in order, to free workers

Shard `index` is the part `index + 1` of n parts, where n is the number of shards (`--shards i/n`), so a
killed worker leaves what a killed process leaves: nothing, or a complete shard. Ray Data is not used: it cuts
its own blocks, and the bytes of a store must not depend on the worker. Needs the extra `ray`.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinodeploy.embedder import Embedder
from dinodeploy.errors import DinodeployError, MisuseError, UnavailableError, reason_of
from dinodeploy.hardware.telemetry import silence_ray
from dinodeploy.images.limits import DEFAULT_LIMITS, ImageLimits
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.pipeline import RunReport, embed_source
from dinodeploy.pipeline.progress import Advance
from dinodeploy.pipeline.stages import Stages
from dinodeploy.sources import FileSource, Source, SourceOptions, Stamps, open_source, origins_of
from dinodeploy.store.plan import Plan, hash_listing, read_plan
from dinodeploy.store.writer import Store

ATTEMPTS = 4  # per shard: an image that kills its worker must not do so endlessly
OBJECT_STORE = 256 * 2**20  # bytes, of a local Ray: only reports and a listing pass through it
# Ray's future default, without the warning about it
_FUTURE_DEFAULT = ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


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
    identify: str = "stat"
    limits: ImageLimits = DEFAULT_LIMITS
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
        stamps = Stamps(source, content=job.identify == "hash", threads=job.decoders)
        with Store(job.out, job.plan, part=(index + 1, job.plan.shards), stamps=stamps) as store:
            return embed_source(
                embedder,
                source,
                store,
                job.preprocess,
                batch_size=job.batch,
                workers=job.decoders,
                time_limit=job.time_limit,
                limits=job.limits,
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


@dataclass(frozen=True)
class Share:
    """The resources of one worker."""

    cpus: int = 1
    gpus: int = 0

    def fit(self, resources: dict[str, float]) -> int:
        """Number of workers that fit on a machine."""
        room = resources.get("CPU", 0) // self.cpus
        return int(min(room, resources.get("GPU", 0) // self.gpus) if self.gpus else room)


@dataclass
class _Progress:
    """Shards still to make, and the reports of finished ones."""

    waiting: deque[int]
    reports: list[RunReport] = field(default_factory=list)
    lost: Counter[int] = field(default_factory=Counter)  # how many workers died on a shard


def parse_address(text: str) -> str:
    """Raises MisuseError for an address that Ray does not accept."""
    if text in ("local", "auto") or text.removeprefix("ray://") not in (text, ""):
        return text
    raise MisuseError(
        f"cluster {text!r}; wanted local, auto, or the address of a Ray cluster, ray://HOST:10001"
    )


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """The connected `ray` module; what it started is stopped at the end. Raises UnavailableError."""
    os.environ.setdefault(*_FUTURE_DEFAULT)
    silence_ray()
    try:
        import ray
    except ImportError as error:
        raise UnavailableError("a cluster needs Ray: pip install 'dinodeploy[ray]'") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {
            "num_cpus": os.cpu_count(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }
    with redirect_stdout(sys.stderr):  # stdout is for the result, and Ray prints there when workers die
        try:
            ray.init(address, **options)
        except (OSError, RuntimeError, ValueError) as error:
            reason = reason_of(error)
            raise UnavailableError(f"cluster {address}: Ray cannot be reached: {reason}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def count_workers(ray: Any, share: Share) -> int:
    """Number of workers that fit on the cluster. Raises UnavailableError for none."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(share.fit(resources) for resources in machines)
    if not room:
        wanted = f"{share.cpus} CPUs" + (f" and {share.gpus} GPU" if share.gpus else "")
        raise UnavailableError(
            f"no machine of the cluster has the {wanted} that a worker needs; see threads and device"
        )
    return room


def make_shards(
    ray: Any, job: Job, shards: list[int], share: Share, workers: int, advance: Advance
) -> list[RunReport]:
    """Make `shards` with at most `workers` workers; one report per shard. Committed shards stay.

    A worker that dies is replaced and its shard made again. Raises what a worker raises, and UnavailableError
    for a shard on which `ATTEMPTS` workers died.
    """
    worker = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus)(ShardWorker)
    told = ray.put(job)
    free = deque(worker.remote(told) for _ in range(min(workers, len(shards))))
    progress = _Progress(deque(shards))
    running: dict[Any, tuple[Any, int]] = {}
    while progress.waiting or running:
        while free and progress.waiting:
            actor, index = free.popleft(), progress.waiting.popleft()
            running[actor.make.remote(index)] = actor, index
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        actor, index = running.pop(done)
        if not _collect(ray, done, index, progress):
            ray.kill(actor)  # it may be cut off, not dead; Ray's own restart refuses tasks for a while
            actor = worker.remote(told)
        free.append(actor)
        made = sum(report.embedded for report in progress.reports)
        failed = sum(report.quarantined for report in progress.reports)
        advance(made, failed, "")
    return progress.reports


def _collect(ray: Any, done: Any, index: int, progress: _Progress) -> bool:
    """Keep the report of a shard. False if its worker was lost; the shard is then made next."""
    try:
        progress.reports.append(ray.get(done))
        return True
    except ray.exceptions.RayTaskError as error:  # the worker itself raised
        if isinstance(error.cause, DinodeployError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:  # killed, out of memory, its machine gone
        progress.lost[index] += 1
        if progress.lost[index] == ATTEMPTS:
            raise UnavailableError(
                f"shard {index}: {ATTEMPTS} workers died on it, the last with: {reason_of(error)}; "
                "finished shards are kept, the same command resumes"
            ) from error
        progress.waiting.appendleft(index)
        return False


def merge_reports(reports: list[RunReport], kept: int, kept_quarantined: int, seconds: float) -> RunReport:
    """Merge reports; the stages are the sums over all workers."""
    stages = Stages()
    for report in reports:
        stages.add(report.stages)
    return RunReport(
        embedded=sum(report.embedded for report in reports),
        quarantined=sum(report.quarantined for report in reports),
        kept=kept + sum(report.kept for report in reports),  # by a worker killed before it could report
        kept_quarantined=kept_quarantined + sum(report.kept_quarantined for report in reports),
        seconds=seconds,
        stages=stages,
    )
