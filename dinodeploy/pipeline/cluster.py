"""Make shards on a Ray cluster: one actor per worker, one task per shard; a killed worker loses nothing.

    connect(address)          local: start Ray on this machine; auto, ray://…: an existing cluster
    make_shards(ray, job, …)  give shards, in order, to free workers

Ray Data is not used: it cuts its own blocks, and the bytes of a store must not depend on the worker. Needs
    the
extra `ray`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from dinodeploy.errors import DinodeployError, MisuseError, UnavailableError, reason_of
from dinodeploy.pipeline.pipeline import RunReport
from dinodeploy.pipeline.shard_worker import Job, ShardWorker
from dinodeploy.pipeline.stages import Stages

ATTEMPTS = 4  # per shard: an image that kills its worker must not do so endlessly
OBJECT_STORE = 256 * 2**20  # bytes, of a local Ray: only reports and a listing pass through it
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # send no usage statistics
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default, without the warning about it
}

Advance = Callable[[int, int, str], None]


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
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
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
