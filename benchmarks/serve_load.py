"""`dinodeploy serve` under load: failures, memory growth and latency with fifty clients for two minutes.

    .venv/bin/python benchmarks/serve_load.py                              # a small random model
    .venv/bin/python benchmarks/serve_load.py --bundle bundle --clients 50 --seconds 120
    .venv/bin/python benchmarks/serve_load.py --workers 2 --kill           # one worker is killed half-way
    .venv/bin/python benchmarks/serve_load.py --workers 2 --kill --clients 8 --seconds 20   # a short one

Each client sends one photograph-sized JPEG after another, and waits as long as a Retry-After header says.
Service and clients share the machine. Answers other than 200, 429 and 503 are failures, and so are broken
connections, except those lost with a killed worker. --record adds the run to
benchmarks/ledger/serve_load_<cpu>_<yyyymm>.json. After --limit seconds the run stops with a traceback of
where it was. No process of the service is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import math
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import httpx
import numpy as np
import psutil
from shared import (
    LEDGER,
    export_small,
    make_parser,
    new_record,
    save,
    start_dinodeploy,
    synthetic_image,
)

from dinodeploy.bench.ledger import record_name

PACKAGES = ("onnxruntime", "fastapi", "uvicorn", "numpy", "pillow")
IMAGES = 16
LOOK_SECONDS = 0.5  # between looks at the service's memory
REQUEST_SECONDS = 60  # that a client waits for one answer
PAUSE_SECONDS = 0.2  # of a client after a broken connection
START_AND_END_SECONDS = 300  # besides the load: export, parity check, start, drain
AGAIN_SECONDS = 5
STOP_SECONDS = 180  # after which the service kills its workers
BY_DESIGN = (200, 429, 503)
MIB = 1 << 20
NO_TLS = ssl.create_default_context()  # shared: each client would read the certificates again


class PastLimit(KeyboardInterrupt):
    """The run took too long. A KeyboardInterrupt, since event loops let only that through from anywhere."""


class Load:
    """Results of all clients so far."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url, self.seconds = url, seconds
        self.started = time.monotonic()
        self.statuses: Counter[int] = Counter()
        self.broken: list[float] = []  # seconds at which connections broke
        self.latencies: list[float] = []  # of answers 200, in seconds

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    async def client(self, number: int, images: list[bytes]) -> None:
        async with httpx.AsyncClient(timeout=None, verify=NO_TLS) as http:
            asked = number
            while self.elapsed < self.seconds:
                files = {"files": ("p.jpg", images[asked % len(images)])}
                begun = time.monotonic()
                asked += 1
                try:
                    answer = await asyncio.wait_for(
                        http.post(f"{self.url}/embed", files=files), REQUEST_SECONDS
                    )
                except (httpx.TransportError, asyncio.TimeoutError):
                    self.broken.append(round(self.elapsed, 2))
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.latencies.append(time.monotonic() - begun)
                elif "retry-after" in answer.headers:
                    await asyncio.sleep(float(answer.headers["retry-after"]))


class Watch:
    """Record the service's memory, and kill a worker half-way if `kill`."""

    def __init__(self, process: psutil.Process, kill: bool) -> None:
        self._process, self._kill = process, kill
        self.memory: list[tuple[float, int]] = []  # seconds, MiB over all processes
        self.killed: float | None = None

    async def look(self, load: Load) -> None:
        while load.elapsed < load.seconds:
            self.memory.append((round(load.elapsed, 1), self._resident() // MIB))
            if self._kill and self.killed is None and load.elapsed > load.seconds / 2:
                os.kill(workers_of(self._process)[0].pid, signal.SIGKILL)
                self.killed = round(load.elapsed, 2)
            await asyncio.sleep(LOOK_SECONDS)

    def _resident(self) -> int:
        total = 0
        for process in (self._process, *self._process.children()):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:  # it was just killed
                continue
        return total


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--bundle", type=Path, help="default: three blocks of width 128, random weights")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kill", action="store_true", help="kill a worker half-way; needs --workers 2")
    parser.add_argument("--record", action="store_true", help="write into benchmarks/ledger")
    parser.add_argument(
        "--limit", type=int, help=f"seconds for everything; default: --seconds and {START_AND_END_SECONDS}"
    )
    options = parser.parse_args()
    if options.kill and options.workers < 2:
        parser.error("--kill needs --workers 2 or more")
    give_up_after(options.limit or math.ceil(options.seconds) + START_AND_END_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or export_small(Path(folder) / "bundle")
        result = measure(bundle, options)
    show(result)
    if options.record:  # added to the runs of this month on this machine
        path = LEDGER / record_name("serve_load")
        runs = json.loads(path.read_text())["runs"] if path.exists() else []
        runs.append({**new_record("serve_load", PACKAGES), **result})
        print(f"written: {save({'runs': runs}, out=path)}")
    sys.exit(1 if result["failures"] else 0)


def measure(bundle: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run: start, load, stop by SIGTERM."""
    command = ["serve", str(bundle), "--port", "0", "--workers", str(options.workers), "--threads", "1"]
    process = start_dinodeploy(command)
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, "the service did not start"
        url = found.group()
        httpx.get(f"{url}/ready", timeout=120)
        load, watch = Load(url, options.seconds), Watch(psutil.Process(process.pid), options.kill)
        asyncio.run(_run(load, watch, options.clients))
        process.terminate()
        code = process.wait(STOP_SECONDS)
    finally:
        end(process)
    return _result(load, watch, options, bundle, code)


def give_up_after(seconds: int) -> None:
    """Raise PastLimit in this thread after `seconds`, and again every AGAIN_SECONDS if it was swallowed."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise PastLimit(f"not done within {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)


def workers_of(service: psutil.Process) -> list[psutil.Process]:
    return [p for p in service.children() if "spawn_main" in " ".join(p.cmdline())]


def end(process: subprocess.Popen[str]) -> None:
    """Kill the rest of the service, including its workers."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert process.stdout is not None
    process.stdout.close()
    if process.poll() is None:
        left = [*psutil.Process(process.pid).children(recursive=True), process]
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


async def _run(load: Load, watch: Watch, clients: int) -> None:
    images = make_images()
    load.started = time.monotonic()
    await asyncio.gather(watch.look(load), *(load.client(n, images) for n in range(clients)))


def make_images() -> list[bytes]:
    """JPEGs with structure, each from its own seed."""
    files = []
    for seed in range(IMAGES):
        buffer = io.BytesIO()
        synthetic_image(seed).save(buffer, "JPEG", quality=85)
        files.append(buffer.getvalue())
    return files


def _result(load: Load, watch: Watch, options: argparse.Namespace, bundle: Path, code: int) -> dict[str, Any]:
    expected = [at for at in load.broken if watch.killed is not None and 0 <= at - watch.killed < 5]
    failures = len(load.broken) - len(expected)
    failures += sum(count for status, count in load.statuses.items() if status not in BY_DESIGN)
    third = len(watch.memory) // 3
    middle, late = watch.memory[third : 2 * third] or watch.memory, watch.memory[2 * third :]
    return {
        "bundle": bundle.name if options.bundle else "three blocks of width 128, random weights",
        "clients": options.clients,
        "seconds": options.seconds,
        "workers": options.workers,
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "answers_per_second": round(load.statuses[200] / options.seconds, 1),
        "latency_ms": {f"p{p}": _percentile(load.latencies, p) for p in (50, 95, 99)},
        "peak_mib": {"middle third": max(m for _, m in middle), "last third": max(m for _, m in late)},
        "memory": watch.memory[:: max(1, len(watch.memory) // 100)],
        "killed_at": watch.killed,
        "lost_with_the_worker": len(expected),
        "failures": failures + (code != 0),
        "exit_code": code,
    }


def _percentile(seconds: list[float], percent: int) -> float | None:
    return round(1000 * float(np.percentile(seconds, percent)), 1) if seconds else None


def show(result: dict[str, Any]) -> None:
    statuses = ", ".join(f"{count} x {status}" for status, count in result["statuses"].items())
    latency = ", ".join(f"{name} {ms} ms" for name, ms in result["latency_ms"].items())
    memory = result["peak_mib"]
    print(f"{result['clients']} clients, {result['seconds']:g} s, {result['workers']} workers: {statuses}")
    print(f"{result['answers_per_second']} answers/s; {latency}")
    print(
        f"memory: at most {memory['middle third']} MiB in the middle, {memory['last third']} MiB in the end"
    )
    if result["killed_at"] is not None:
        print(
            f"killed a worker at {result['killed_at']} s: {result['lost_with_the_worker']} connections lost"
        )
    print(f"failures: {result['failures']}")


if __name__ == "__main__":
    main()
