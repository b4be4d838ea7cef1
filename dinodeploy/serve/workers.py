"""Several worker processes behind one port, each with its own engine; a worker that dies is replaced.

The parent binds the port, checks the bundle once, and then supervises. It passes SIGTERM and Ctrl-C on to
the workers, which drain, and kills a worker that does not stop in time. Workers that keep dying right after
their start end the service. Workers stop when their parent was killed.

uvicorn's own supervisor is not enough (`benchmarks/LOG.md`, 2026-11-30): it restarts a worker that dies at
its start again and again, never kills a worker that does not stop, and leaves orphans when it is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from dinodeploy.errors import UnavailableError
from dinodeploy.serve.guard import BODY_SECONDS
from dinodeploy.serve.metrics import SHARED
from dinodeploy.serve.server import serve_on
from dinodeploy.serve.service import Service
from dinodeploy.serve.settings import Settings

MOST_FAILURES = 5  # early deaths in a row, over all workers, before the service gives up
_EARLY = 10.0  # seconds; a worker that dies younger than this has failed to start
_SLACK = 10.0  # seconds for stopping, beyond what open requests may take
_POLL = 0.1  # seconds between checks of the workers


def run_worker(listener: socket.socket, settings: Settings) -> None:
    """One worker process. Ctrl-C reaches the whole process group; a worker waits for the parent's SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
    with Service.open(settings) as service:
        serve_on(listener, service, ends_process=True)


def serve_with_workers(
    listener: socket.socket,
    settings: Settings,
    count: int,
    log: Callable[[str], None],
    *,
    target: Callable[[socket.socket, Settings], None] = run_worker,
    most_failures: int = MOST_FAILURES,
    stop_seconds: float | None = None,
) -> None:
    """Serve with `count` processes that run `target`, until a signal stops them. `log` receives deaths.

    Raises UnavailableError after `most_failures` early deaths in a row. A worker that has not stopped after
    `stop_seconds` is killed; default: twice what a body and its request may take.
    """
    if stop_seconds is None:
        stop_seconds = settings.linger + 2 * (settings.time_limit + BODY_SECONDS) + _SLACK

    def start() -> SpawnProcess:
        worker = multiprocessing.get_context("spawn").Process(target=target, args=(listener, settings))
        worker.start()
        return worker

    with tempfile.TemporaryDirectory(prefix="dinodeploy_metrics_") as folder:
        os.environ[SHARED] = folder
        try:
            _Supervisor(start, count, log, most_failures, stop_seconds).run()
        finally:
            del os.environ[SHARED]


@dataclass
class _Supervisor:
    start: Callable[[], SpawnProcess]
    count: int
    log: Callable[[str], None]
    most_failures: int
    stop_seconds: float
    workers: dict[SpawnProcess, float] = field(default_factory=dict)  # worker -> time of its start
    failures: int = 0
    signals: int = 0  # received so far

    def run(self) -> None:
        before = {
            number: signal.signal(number, self._count_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            while not self.signals:
                self._replace_dead()
                time.sleep(_POLL)
            self._drain()
        finally:
            for worker in self.workers:
                if worker.is_alive():
                    worker.kill()
                worker.join()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count_signal(self, number: int, frame: FrameType | None) -> None:
        """Only counts: the signal may arrive while a worker is being started and is not yet in the table."""
        self.signals += 1

    def _drain(self) -> None:
        """Pass on signals until all workers have stopped: the first drains a worker, the second ends it."""
        deadline = time.monotonic() + self.stop_seconds
        passed_on = 0
        while any(worker.is_alive() for worker in self.workers):
            if time.monotonic() > deadline:
                self.log(f"a worker has not stopped within {self.stop_seconds:g} s; it is killed")
                return
            if passed_on < self.signals:
                passed_on = self.signals
                for worker in self.workers:
                    if worker.is_alive():
                        worker.terminate()
            time.sleep(_POLL)

    def _replace_dead(self) -> None:
        for worker, started in list(self.workers.items()):
            if worker.is_alive():
                continue
            worker.join()
            del self.workers[worker]
            mark_process_dead(worker.pid)  # keep its counters, drop its gauges
            self.failures = self.failures + 1 if time.monotonic() - started < _EARLY else 0
            code = worker.exitcode or 0
            cause = signal.Signals(-code).name if code < 0 else f"exit {code}"
            self.log(f"worker {worker.pid} died ({cause}); starting another one")
            if self.failures >= self.most_failures:
                raise UnavailableError(
                    f"{self.failures} workers in a row died within {_EARLY:g} s of their start; see their "
                    "messages above, or serve with --workers 1"
                )
        while len(self.workers) < self.count and not self.signals:
            self.workers[self.start()] = time.monotonic()


def _stop_with_parent() -> None:
    """Drain when the parent has died: nobody else would stop this worker."""
    multiprocessing.parent_process().join()  # type: ignore[union-attr]  # a worker has a parent
    os.kill(os.getpid(), signal.SIGTERM)
