"""One serving process: draining on SIGTERM, and the port."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from dinodeploy.errors import UnavailableError
from dinodeploy.serve.server import bind
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


def test_a_port_in_use_is_unavailable() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UnavailableError, match="in use"):
            bind("127.0.0.1", taken.getsockname()[1])
