"""`dinodeploy serve` in its own process, and a client for it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.images.image_files import encoded

TIMEOUT = 60.0  # seconds on a busy machine


class Process:
    """`dinodeploy serve` in its own process."""

    def __init__(self, bundle: Path, *options: str) -> None:
        command = [sys.executable, "-m", "dinodeploy.cli.app", "serve", str(bundle), "--port", "0"]
        self.popen = subprocess.Popen(
            [*command, "--threads", "1", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, (line, self.popen.communicate()[1])
        self.client = httpx.Client(base_url=found.group(), timeout=TIMEOUT)
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
        code = self.popen.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
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
