"""The service as a process: a stop that loses nothing, a killed worker that is replaced."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.image_files import encoded

PATIENCE = 60.0  # seconds on a busy machine


class Process:
    """`dinodeploy serve` in a process of its own."""

    def __init__(self, bundle: Path, *options: str) -> None:
        command = [sys.executable, "-m", "dinodeploy.cli.app", "serve", str(bundle), "--port", "0"]
        self.popen = subprocess.Popen(
            [*command, "--threads", "1", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, (line, self.popen.communicate()[1])
        self.client = httpx.Client(base_url=found.group(), timeout=PATIENCE)
        self._stderr: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        self._stderr.extend(self.popen.stderr)

    def embed(self) -> httpx.Response:
        return self.client.post("/embed", files={"files": encoded("coffee")})

    def end(self) -> tuple[int, str]:
        """Exit code and stderr."""
        code = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code, "".join(self._stderr)


@contextmanager
def serving(bundle: Path, *options: str) -> Iterator[Process]:
    process = Process(bundle, *options)
    try:
        yield process
    finally:
        process.client.close()
        if process.popen.poll() is None:
            process.popen.terminate()
            process.end()
        for stream in (process.popen.stdout, process.popen.stderr):
            assert stream is not None
            stream.close()


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight_and_refuses_what_is_new(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--max-wait-ms", "1500") as process:
        assert process.client.get("/ready").status_code == 200
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(process.embed()))
        asking.start()
        time.sleep(0.5)  # it waits for others to share its batch
        process.popen.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        refused = process.client.get("/model")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert process.client.get("/ready").status_code == 503
        assert process.client.get("/health").status_code == 200
        asking.join(PATIENCE)
        assert answers[0].status_code == 200
        code, stderr = process.end()
        assert code == 0
        assert "Traceback" not in stderr


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
            except httpx.TransportError:  # its connection died with the worker
                assert time.monotonic() - before < PATIENCE
                continue
            break
        assert answer.status_code == 200
        assert "dinodeploy_requests_total" in process.client.get("/metrics").text
        process.popen.send_signal(signal.SIGTERM)
        code, stderr = process.end()
        assert code == 0
        assert "has died (SIGKILL); another one takes its place" in stderr
        assert "Traceback" not in stderr
    assert not psutil.pid_exists(process.popen.pid)


@pytest.mark.slow
def test_workers_that_cannot_live_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dinodeploy.errors import UnavailableError
    from dinodeploy.serve import workers
    from dinodeploy.serve.server import bind
    from dinodeploy.serve.settings import Settings

    monkeypatch.setattr(workers, "work", _dies)
    monkeypatch.setattr(workers, "_TRIES", 2)
    said: list[str] = []
    with bind("127.0.0.1", 0) as listener, pytest.raises(UnavailableError, match="2 workers in a row"):
        workers.serve_with_workers(listener, Settings(tmp_path), 1, said.append)
    assert "exit 3" in said[0]


def _dies(*_: object) -> None:
    sys.exit(3)


@pytest.mark.slow
def test_a_worker_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dinodeploy.serve import workers
    from dinodeploy.serve.server import bind
    from dinodeploy.serve.settings import Settings

    monkeypatch.setattr(workers, "work", _stays)
    monkeypatch.setattr(workers, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(workers, "_SLACK", 0.5)
    said: list[str] = []
    settings = Settings(tmp_path, time_limit=0.5, linger=0.0)
    with bind("127.0.0.1", 0) as listener:
        threading.Thread(target=_signal_when_deaf, args=(listener,), daemon=True).start()
        workers.serve_with_workers(listener, settings, 1, said.append)
    assert said == ["a worker has not ended within 2.5 s; it is killed"]
    assert multiprocessing.active_children() == []


def _stays(listener: socket.socket, *_: object) -> None:
    """Deaf to SIGTERM; listens once it is."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener.listen()
    time.sleep(PATIENCE)


def _signal_when_deaf(listener: socket.socket) -> None:
    """SIGTERM for this process, whose supervisor waits for it, once its worker listens."""
    while not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_no_worker_outlives_a_killed_parent(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--workers", "2") as process:
        assert process.embed().status_code == 200
        workers = [psutil.Process(pid) for pid in _workers(process.popen.pid)]
        assert len(workers) == 2
        process.popen.kill()
        assert psutil.wait_procs(workers, timeout=PATIENCE)[1] == []


def _workers(pid: int) -> list[int]:
    children = psutil.Process(pid).children()
    return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_a_taken_port_is_4(tiny_bundle: Path) -> None:
    from dinodeploy.errors import UnavailableError
    from dinodeploy.serve.server import bind

    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UnavailableError, match="in use"):
            bind("127.0.0.1", taken.getsockname()[1])
