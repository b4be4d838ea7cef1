"""One serving process: draining on SIGTERM, and the port."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from dinodeploy.errors import UnavailableError
from dinodeploy.serve import server
from dinodeploy.serve.server import bind, serve_on
from dinodeploy.serve.service import Service
from dinodeploy.serve.settings import Settings
from tests.support.images.hostile_images import many_scans
from tests.support.images.image_files import encoded
from tests.support.processes.service_process import TIMEOUT, serving


@pytest.mark.slow
def test_sigterm_finishes_open_requests_and_refuses_new_ones(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--max-wait-ms", "1500") as process:
        assert process.client.get("/ready").status_code == 200
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(process.embed()))
        asking.start()
        time.sleep(0.5)  # it waits for the batch to fill
        process.popen.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        refused = process.client.get("/model")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert process.client.get("/ready").status_code == 503
        assert process.client.get("/health").status_code == 200
        asking.join(TIMEOUT)
        assert answers[0].status_code == 200
        code, stderr = process.end()
        assert code == 0
        assert "Traceback" not in stderr


@pytest.mark.slow
def test_sigterm_ends_it_while_decoders_are_busy(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--time-limit", "2") as process:
        data = many_scans(85, 7000, "RGB")
        headers = {"content-type": "image/jpeg"}
        for _ in range(4):
            threading.Thread(
                target=lambda: process.client.post("/embed", content=data, headers=headers), daemon=True
            ).start()
        time.sleep(1)
        assert process.client.get("/ready").status_code == 200
        assert process.embed().status_code == 200
        decoders = psutil.Process(process.popen.pid).children()
        before = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        code, stderr = process.end()
        assert code == 0
        assert time.monotonic() - before < 12
        assert "Traceback" not in stderr
        assert not any(one.is_running() for one in decoders)


def _serve_with_an_engine_that_hangs(bundle: Path, port: socket.socket, slack: float) -> None:
    server.STOP_SLACK = server.CLOSE_SLACK = slack
    with Service.open(Settings(bundle, threads=1, time_limit=1, linger=0.1)) as service:
        service.embedder.run = lambda x: time.sleep(600)  # type: ignore[method-assign]
        serve_on(port, service, ends_process=True)


@pytest.mark.slow
def test_sigterm_ends_it_while_the_engine_hangs(tiny_bundle: Path) -> None:
    with bind("127.0.0.1", 0) as port:
        port.listen()
        spawned = multiprocessing.get_context("spawn").Process(
            target=_serve_with_an_engine_that_hangs, args=(tiny_bundle, port, 0.5)
        )
        spawned.start()
        url = f"http://127.0.0.1:{port.getsockname()[1]}/embed"
        answer = httpx.post(url, files={"files": encoded("coffee")}, timeout=TIMEOUT)
        assert answer.status_code == 503
        assert spawned.pid is not None
        decoders = psutil.Process(spawned.pid).children()
        before = time.monotonic()
        os.kill(spawned.pid, signal.SIGTERM)
        spawned.join(TIMEOUT)
        assert spawned.exitcode == 1
        assert time.monotonic() - before < 6
        psutil.wait_procs(decoders, TIMEOUT)
        assert not any(one.is_running() for one in decoders)


def test_it_serves_beside_a_running_event_loop(tiny_bundle: Path) -> None:
    """As in a notebook."""
    statuses: list[int] = []

    async def cell() -> None:
        settings = Settings(tiny_bundle, threads=1, linger=0.1)
        with bind("127.0.0.1", 0) as listener, Service.open(settings) as service:
            listener.listen()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/ready"

            def ask_and_interrupt() -> None:
                statuses.append(httpx.get(url, timeout=TIMEOUT).status_code)
                os.kill(os.getpid(), signal.SIGINT)

            threading.Thread(target=ask_and_interrupt).start()
            serve_on(listener, service)

    handler = signal.getsignal(signal.SIGINT)
    asyncio.run(cell())
    assert statuses == [200]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_port_in_use_is_unavailable() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UnavailableError, match="in use"):
            bind("127.0.0.1", taken.getsockname()[1])
