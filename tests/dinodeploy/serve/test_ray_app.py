"""The service on Ray Serve; needs `pip install 'ray[serve]'`, which the extra [dev] leaves out."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from dinodeploy import Embedder
from dinodeploy.serve.server import bind
from tests.support.images.image_files import encoded

SECONDS = 120.0  # a Ray of its own, on a busy machine
pytest.importorskip("ray.serve", reason="needs ray[serve]", exc_type=ImportError)


@pytest.mark.slow
def test_two_replicas_answer_like_the_embedder_and_drain(tiny_bundle: Path, tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "dinodeploy.cli.app",
        "serve",
        str(tiny_bundle),
        "--ray",
        "--threads",
        "1",
    ]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "2", "--threads", "1"], stdout=log, stderr=log
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
                wait_until_it_answers(client, process)
                assert client.get("/model").json()["embed_dim"] == 128
                answers = [client.post("/embed", files={"files": encoded("coffee")}) for _ in range(6)]
                assert client.post("/embed", files={"files": b"no image"}).status_code == 422
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.wait()
            log.seek(0)
            print(log.read())
    with Embedder.open(tiny_bundle, threads=1) as embedder:
        wanted = embedder.embed([encoded("coffee")])["cls"][0]
    for answer in answers:
        assert answer.status_code == 200
        got = answer.json()["images"][0]["outputs"]["cls"]
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def wait_until_it_answers(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the service has ended"
        try:
            if client.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError("the service does not answer")
