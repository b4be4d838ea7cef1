"""Shards on a Ray cluster: one actor a worker, one task a shard, and a killed worker loses nothing.

    connect(address)          local: a Ray of this machine alone; auto, ray://…: a cluster that is there
    make_shards(ray, job, …)  hand out shards, in order, to whoever is free

Not Ray Data: it cuts its own blocks, and a store's bytes must not depend on who made them. Needs the `ray`
extra.
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

ATTEMPTS = 4  # of one shard: a picture that kills its worker must not do so for ever
OBJECT_STORE = 256 * 2**20  # bytes, of a local Ray: reports and a listing are all that goes through it
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default, without its warning of the change
}

Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Share:
    """What one worker needs of the cluster."""

    cpus: int = 1
    gpus: int = 0

    def fit(self, resources: dict[str, float]) -> int:
        """How many workers a machine has room for."""
        room = resources.get("CPU", 0) // self.cpus
        return int(min(room, resources.get("GPU", 0) // self.gpus) if self.gpus else room)


@dataclass
class _Progress:
    """Shards that are still to do, and what came of the others."""

    waiting: deque[int]
    reports: list[RunReport] = field(default_factory=list)
    lost: Counter[int] = field(default_factory=Counter)  # how often a worker died over a shard


def parse_address(text: str) -> str:
    """Raises MisuseError for what Ray could not mean."""
    if text in ("local", "auto") or text.removeprefix("ray://") not in (text, ""):
        return text
    raise MisuseError(f"--cluster {text!r}; wanted local, auto, or the address of a Ray, ray://HOST:10001")


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """Ray itself, connected; what it started is stopped at the end. Raises UnavailableError."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UnavailableError("--cluster needs Ray: pip install 'dinodeploy[ray]'") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {
            "num_cpus": os.cpu_count(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }
    with redirect_stdout(sys.stderr):  # stdout belongs to the result, and Ray prints there when workers die
        try:
            ray.init(address, **options)
        except (OSError, RuntimeError, ValueError) as error:
            reason = reason_of(error)
            raise UnavailableError(f"--cluster {address}: Ray cannot be reached: {reason}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def count_workers(ray: Any, share: Share) -> int:
    """How many workers the machines of the cluster have room for. Raises UnavailableError for none."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(share.fit(resources) for resources in machines)
    if not room:
        wanted = f"{share.cpus} CPUs" + (f" and {share.gpus} GPU" if share.gpus else "")
        raise UnavailableError(
            f"no machine of the cluster has the {wanted} that a worker needs; see --threads and --device"
        )
    return room


def make_shards(
    ray: Any, job: Job, shards: list[int], share: Share, workers: int, advance: Advance
) -> list[RunReport]:
    """Make `shards` with at most so many `workers`; a report each, as they end. What is committed stays.

    A worker that dies is replaced and its shard made anew. Raises what a worker raises, and
    UnavailableError for a shard that kills every worker.
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
            ray.kill(actor)  # it may be cut off rather than dead; a restart by Ray refuses tasks for a while
            actor = worker.remote(told)
        free.append(actor)
        made = sum(report.embedded for report in progress.reports)
        failed = sum(report.quarantined for report in progress.reports)
        advance(made, failed, "")
    return progress.reports


def _collect(ray: Any, done: Any, index: int, progress: _Progress) -> bool:
    """Keep the report of a shard. False where its worker was lost: the shard is then the next to be made."""
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
                f"shard {index}: {ATTEMPTS} workers died over it, the last so: {reason_of(error)}; "
                "finished shards are kept, the same command goes on"
            ) from error
        progress.waiting.appendleft(index)
        return False


def merge_reports(reports: list[RunReport], kept: int, kept_quarantined: int, seconds: float) -> RunReport:
    """One report of many; its stages are those of all workers together, whose times add up."""
    stages = Stages()
    for report in reports:
        stages.add(report.stages)
    return RunReport(
        embedded=sum(report.embedded for report in reports),
        quarantined=sum(report.quarantined for report in reports),
        kept=kept + sum(report.kept for report in reports),  # by a worker killed before it could say so
        kept_quarantined=kept_quarantined + sum(report.kept_quarantined for report in reports),
        seconds=seconds,
        stages=stages,
    )
