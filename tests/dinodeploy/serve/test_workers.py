"""Several worker processes: replacement of killed workers, and the end of those that cannot start or stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from dinodeploy.errors import UnavailableError
from dinodeploy.serve.server import bind
from dinodeploy.serve.settings import Settings
from dinodeploy.serve.workers import serve_with_workers
from tests.support.processes.service_process import TIMEOUT, serving


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--workers", "2") as process:
        assert process.embed().status_code == 200
        for victim in _workers(process.popen.pid):
            os.kill(victim, signal.SIGKILL)
        before = time.monotonic()
        while True:
            try:
                answer = process.embed()
            except httpx.TransportError:  # the connection was lost with the worker
                assert time.monotonic() - before < TIMEOUT
                continue
            break
        assert answer.status_code == 200
        assert "dinodeploy_requests_total" in process.client.get("/metrics").text
        process.popen.send_signal(signal.SIGTERM)
        code, stderr = process.end()
        assert code == 0
        assert "died (SIGKILL); starting another one" in stderr
        assert "Traceback" not in stderr
    assert not psutil.pid_exists(process.popen.pid)


@pytest.mark.slow
def test_workers_that_keep_dying_end_the_service(tmp_path: Path) -> None:
    logged: list[str] = []
    with bind("127.0.0.1", 0) as listener, pytest.raises(UnavailableError, match="2 workers in a row"):
        serve_with_workers(listener, Settings(tmp_path), 1, logged.append, target=_dies, most_failures=2)
    assert "exit 3" in logged[0]


def _dies(*_: object) -> None:
    sys.exit(3)


@pytest.mark.slow
def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    logged: list[str] = []
    with bind("127.0.0.1", 0) as listener:
        threading.Thread(target=_signal_when_deaf, args=(listener,), daemon=True).start()
        serve_with_workers(listener, Settings(tmp_path), 1, logged.append, target=_stays, stop_seconds=2.5)
    assert logged == ["a worker has not stopped within 2.5 s; it is killed"]
    assert multiprocessing.active_children() == []


def _stays(listener: socket.socket, *_: object) -> None:
    """Ignores SIGTERM; listens once it does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener.listen()
    time.sleep(TIMEOUT)


def _signal_when_deaf(listener: socket.socket) -> None:
    """Send SIGTERM to this process, which supervises, once its worker listens."""
    while not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_workers_stop_when_their_parent_is_killed(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--workers", "2") as process:
        assert process.embed().status_code == 200
        workers = [psutil.Process(pid) for pid in _workers(process.popen.pid)]
        assert len(workers) == 2
        process.popen.kill()
        assert psutil.wait_procs(workers, timeout=TIMEOUT)[1] == []


def _workers(pid: int) -> list[int]:
    children = psutil.Process(pid).children()
    return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
