"""Decoding in processes: the same images as from threads, whatever happens to a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinodeploy import UnavailableError
from dinodeploy.images.limits import DEFAULT_LIMITS
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pipeline.decode import Decoded, decode_source
from dinodeploy.pipeline.processes import pool as pools
from dinodeploy.pipeline.processes.pool import ProcessDecoders
from dinodeploy.sources import FileSource
from tests.support.fake_engine import HALF, SMALL
from tests.support.images.photographs import photograph

ROOT = str(Path(__file__).parents[4])


class Readers:
    """Images that are read by functions: `odd` ones by position, the others one small image."""

    def __init__(self, count: int, path: Path, odd: dict[int, Callable[[], Any]] | None = None) -> None:
        self.ids = [f"{index:03d}" for index in range(count)]
        self._path, self._odd = str(path), odd or {}

    def reader(self, index: int) -> Any:
        return self._odd.get(index, self._path)

    def image(self, index: int) -> Any:
        reader = self.reader(index)
        return reader if isinstance(reader, str) else reader()

    def close(self) -> None: ...


def kill_self(marker: str = "", number: int = signal.SIGKILL) -> None:
    """Ends its process; with a marker file only the first time."""
    if not marker or not Path(marker).exists():
        if marker:
            Path(marker).touch()
        os.kill(os.getpid(), number)


def kill_once(marker: str, path: str) -> str:
    kill_self(marker)
    return path


def fail(kind: type[Exception]) -> Any:
    raise kind("x")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (32, 16), (7, 8, 9)).save(tmp_path / "small.png")
    return tmp_path / "small.png"


def decoded(
    source: Any, count: int, preprocess: Preprocess = SMALL, processes: int = 2, time_limit: float = 60.0
) -> Iterator[Decoded]:
    shards = [range(start, min(start + 10, count)) for start in range(0, count, 10)]
    stream = ProcessDecoders(source, shards, preprocess, processes, (4, 2), time_limit, DEFAULT_LIMITS)
    try:
        for item in stream:
            yield item
            stream.release([item])
    finally:
        stream.close()


def test_images_and_reasons_are_those_of_threads(tmp_path: Path) -> None:
    for index, name in enumerate(["chelsea", "rocket", "coffee"] * 9):
        photograph(name).resize((90 + index, 60)).save(tmp_path / f"{index:02d}.jpg")
    (tmp_path / "05.jpg").write_bytes(b"no image")
    (tmp_path / "27.jpg").symlink_to("nowhere")
    source = FileSource([str(tmp_path / f"{index:02d}.jpg") for index in range(28)])
    for preset in ("official", "keep-aspect"):
        steps = Preprocess.from_preset(preset, (32, 32), HALF, HALF)
        wanted = list(decode_source(source, range(28), steps, 2, 4))
        for number, found in enumerate(decoded(source, 28, steps)):
            one = wanted[number]
            assert (found.id, found.position, found.size, found.reason, found.path) == (
                one.id, one.position, one.size, one.reason, one.path,
            )  # fmt: skip
            assert (found.pixels is None) == (one.pixels is None)
            if one.pixels is not None:
                np.testing.assert_array_equal(found.pixels, one.pixels)
        assert number == 27


def test_images_of_a_batch_lie_next_to_each_other(image: Path) -> None:
    source = Readers(30, image)
    stream = ProcessDecoders(source, [range(15), range(15, 30)], SMALL, 2, (4, 2), 60, DEFAULT_LIMITS)
    try:
        for size in (4, 4, 4, 3) * 2:
            batch = [next(stream) for _ in range(size)]
            assert [item.slot - batch[0].slot for item in batch] == list(range(size))
            stream.release(batch)
        assert next(stream, None) is None
    finally:
        stream.close()


def test_a_consumer_that_holds_everything_gets_the_rest_too(image: Path) -> None:
    stream = ProcessDecoders(Readers(200, image), [range(200)], SMALL, 2, (4, 1), 60, DEFAULT_LIMITS)
    try:
        held = list(stream)
    finally:
        stream.close()
    assert [item.position for item in held] == list(range(200))
    assert all(item.pixels is not None and item.pixels[0, 0, 0] == held[0].pixels[0, 0, 0] for item in held)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_an_image_that_kills_its_process_is_quarantined(image: Path, number: int) -> None:
    odd = dict.fromkeys((3, 11), partial(kill_self, "", number))
    items = list(decoded(Readers(25, image, odd), 25))
    assert [item.position for item in items] == list(range(25))
    assert [item.position for item in items if item.pixels is None] == [3, 11]
    assert items[3].reason == f"the process that decoded it died ({signal.Signals(number).name})"


def test_a_process_that_is_killed_from_outside_loses_no_image(image: Path, tmp_path: Path) -> None:
    odd = {4: partial(kill_once, str(tmp_path / "marker"), str(image))}
    items = list(decoded(Readers(25, image, odd), 25))
    assert [item.position for item in items] == list(range(25))
    assert all(item.pixels is not None for item in items)
    stream = decoded(Readers(60, image), 60)
    next(stream)
    frame_of = stream.gi_frame.f_locals["stream"]  # type: ignore[attr-defined]
    for pid in frame_of.pids:
        os.kill(pid, signal.SIGKILL)
    assert all(item.pixels is not None for item in stream)


def test_an_image_that_takes_too_long_is_given_up(image: Path) -> None:
    odd = dict.fromkeys((2, 13), partial(time.sleep, 100))
    started = time.perf_counter()
    items = list(decoded(Readers(25, image, odd), 25, time_limit=0.4))
    assert time.perf_counter() - started < 30
    assert [item.position for item in items if item.pixels is None] == [2, 13]
    assert items[2].reason == "took more than 0.4 s to read; see --time-limit"


def test_a_process_without_a_sign_of_life_is_replaced(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped from outside, at its start, in an image or between two: nothing is lost or waits forever."""
    monkeypatch.setattr(pools, "START_SECONDS", 8.0)
    stream = ProcessDecoders(Readers(60, image), [range(60)], SMALL, 2, (4, 2), 0.5, DEFAULT_LIMITS)
    try:
        positions = [next(stream).position]
        for pid in stream.pids:
            os.kill(pid, signal.SIGSTOP)
        positions += [item.position for item in stream]
    finally:
        stream.close()
    assert positions == list(range(60))


@pytest.mark.parametrize("kind", [UnavailableError, AssertionError])
def test_what_is_no_fault_of_an_image_ends_the_run(image: Path, kind: type[Exception]) -> None:
    stream = decoded(Readers(3, image, {1: partial(fail, kind)}), 3)
    next(stream)
    with pytest.raises(kind, match=r"^x$"):
        next(stream)


def test_processes_that_do_not_start(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "WORKER", "no_such_module")
    with pytest.raises(OSError, match=r"a process did not start \(exit 1\)"):
        next(decoded(Readers(3, image), 3))


def test_processes_that_start_no_more_end_the_run(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = decoded(Readers(20, image, {5: kill_self}), 20)
    next(stream)
    monkeypatch.setattr(pools, "WORKER", "no_such_module")
    with pytest.raises(UnavailableError, match=r"do not start \(exit 1\); use --decode threads"):
        list(stream)


def test_a_script_without_a_guard_and_a_killed_parent(image: Path, tmp_path: Path) -> None:
    """The script is not run again in its processes, and they end when it is killed."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        from dinodeploy.images.limits import DEFAULT_LIMITS
        from dinodeploy.pipeline.processes.pool import ProcessDecoders
        from dinodeploy.sources import FileSource
        from tests.support.fake_engine import SMALL
        print("run", flush=True)
        source = FileSource([str(number) for number in range(50)], paths=[{str(image)!r}] * 50)
        stream = ProcessDecoders(source, [range(50)], SMALL, 2, (4, 2), 60.0, DEFAULT_LIMITS)
        next(stream)
        print(*stream.pids, flush=True)
        input()
        """)
    )
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == "run\n"
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
