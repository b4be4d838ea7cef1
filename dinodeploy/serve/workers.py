"""Several processes behind one port, each with an engine of its own; one that dies is replaced.

The parent opens the port, checks the bundle once, and then only looks after its children. SIGTERM or Ctrl-C
is passed on, and each of them drains; one that has not ended long after every request had to is killed. A
worker that cannot even start is not tried for ever, and none outlives a parent that was killed.
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
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from dinodeploy.errors import UnavailableError
from dinodeploy.serve.guard import BODY_SECONDS
from dinodeploy.serve.metrics import SHARED
from dinodeploy.serve.server import serve_on
from dinodeploy.serve.service import Service
from dinodeploy.serve.settings import Settings

_LOOK = 0.1  # seconds between looks at the workers
_SHORT = 10.0  # seconds; who dies younger than this has hardly started
_SLACK = 10.0  # seconds to end in, beyond those that requests may take
_TRIES = 5  # short lives in a row, over all workers, after which something is wrong with more than a worker


def serve_with_workers(
    listener: socket.socket, settings: Settings, count: int, say: Callable[[str], None]
) -> None:
    """Serve with `count` processes until told to stop. `say` is told of deaths.

    Raises UnavailableError when workers die as soon as they are started.
    """
    with tempfile.TemporaryDirectory(prefix="dinodeploy_metrics_") as folder:
        os.environ[SHARED] = folder
        try:
            _Supervisor(listener, settings, count, say, Path(folder)).run()
        finally:
            del os.environ[SHARED]


class _Supervisor:
    def __init__(
        self,
        listener: socket.socket,
        settings: Settings,
        count: int,
        say: Callable[[str], None],
        metrics: Path,
    ) -> None:
        self._listener, self._settings, self._count, self._say = listener, settings, count, say
        self._metrics = metrics
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[SpawnProcess, float] = {}  # and when each was started
        self._short_lives = 0
        self._stopping = 0  # signals so far

    def run(self) -> None:
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._stopping:
                self._replace_dead()
                time.sleep(_LOOK)
            self._drain()
        finally:
            for worker in self._workers:
                if worker.is_alive():
                    worker.kill()
                worker.join()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Counts, and no more: the signal may come while a worker is being started, known to nobody yet."""
        self._stopping += 1

    def _drain(self) -> None:
        """Pass every signal on until all have ended: the first makes a worker drain, the second ends it.

        Who has not ended when a body and its request must have been done with, twice over, is left to be
        killed.
        """
        settings = self._settings
        patience = settings.linger + 2 * (settings.time_limit + BODY_SECONDS) + _SLACK
        deadline = time.monotonic() + patience
        passed_on = 0
        while any(worker.is_alive() for worker in self._workers):
            if time.monotonic() > deadline:
                self._say(f"a worker has not ended within {patience:g} s; it is killed")
                return
            if passed_on < self._stopping:
                passed_on = self._stopping
                for worker in self._workers:
                    if worker.is_alive():
                        worker.terminate()
            time.sleep(_LOOK)

    def _replace_dead(self) -> None:
        for worker, started in list(self._workers.items()):
            if worker.is_alive():
                continue
            worker.join()
            del self._workers[worker]
            self._forget(worker)
            self._short_lives = self._short_lives + 1 if time.monotonic() - started < _SHORT else 0
            self._say(f"worker {worker.pid} has died ({_how(worker.exitcode)}); another one takes its place")
            if self._short_lives >= _TRIES:
                raise UnavailableError(
                    f"{_TRIES} workers in a row died within {_SHORT:g} s of their start; see what they said "
                    "above, or serve with --workers 1"
                )
        while len(self._workers) < self._count and not self._stopping:
            worker = self._context.Process(target=work, args=(self._listener, self._settings), name="serve")
            worker.start()
            self._workers[worker] = time.monotonic()

    def _forget(self, worker: SpawnProcess) -> None:
        """What a dead worker has counted stays; what it was doing does not."""
        for path in self._metrics.glob(f"gauge_live*_{worker.pid}.db"):
            path.unlink()


def work(listener: socket.socket, settings: Settings) -> None:
    """The life of one worker. Ctrl-C reaches the whole group; the parent's SIGTERM is what counts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    with Service.open(settings) as service:
        serve_on(listener, service)


def _end_with_parent() -> None:
    """Drain when the parent is gone: nobody else would ever stop this worker, or replace it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit {code}"
