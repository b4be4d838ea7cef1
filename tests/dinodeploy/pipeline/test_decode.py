"""Decoding ahead: in order, bounded, and never waiting for an image or a thread forever."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dinodeploy import MisuseError, UnavailableError
from dinodeploy.images.limits import ImageLimits
from dinodeploy.pipeline import decode as decoding
from dinodeploy.pipeline.decode import Decoded, decode_ahead, decode_source
from tests.support.fake_engine import SMALL, MadeUp
from tests.support.images.photographs import photograph


def test_files_come_in_order(tmp_path: Path) -> None:
    names = ["chelsea", "rocket", "coffee"]
    for name in names:
        photograph(name).save(tmp_path / f"{name}.jpg")
    ids = [str(tmp_path / f"{name}.jpg") for name in [*names, "absent"]]
    items = list(decode_ahead(ids, SMALL, threads=3, ahead=8))
    assert [item.id for item in items] == ids
    assert [item.position for item in items] == [0, 1, 2, 3]
    assert [item.size for item in items[:3]] == [photograph(name).size for name in names]
    assert all(item.pixels is not None and item.pixels.shape == (3, 16, 32) for item in items[:3])
    assert items[3].pixels is None
    assert "No such file" in items[3].reason


def test_only_the_positions_asked_for_are_opened() -> None:
    source = MadeUp(20)
    items = list(decode_source(source, [3, 4, 11], SMALL, 2, 4))
    assert [item.id for item in items] == ["000003.png", "000004.png", "000011.png"]
    assert sorted(source.opened) == [3, 4, 11]


def test_decoding_never_runs_far_ahead() -> None:
    """A slow engine must not fill the memory with decoded images."""
    source = MadeUp(100)
    stream = decode_source(source, range(100), SMALL, threads=4, ahead=6)
    for consumed in range(50):
        assert next(stream).id == source.ids[consumed]
        assert len(source.opened) <= consumed + 1 + 6 + 1
    stream.close()


class Stuck(MadeUp):
    """Some images block, as a dead network drive does."""

    def __init__(self, count: int, stuck: set[int]) -> None:
        super().__init__(count)
        self.release = threading.Event()
        self._stuck = stuck

    def image(self, index: int) -> Any:
        if index in self._stuck:
            self.release.wait(30)
        return super().image(index)


def test_an_image_that_blocks_is_given_up() -> None:
    """More of them than threads, too."""
    source = Stuck(20, {2, 3, 4, 9})
    started = time.perf_counter()
    items = list(decode_source(source, range(20), SMALL, threads=2, ahead=8, time_limit=0.3))
    assert time.perf_counter() - started < 15
    assert [item.position for item in items if item.pixels is None] == [2, 3, 4, 9]
    assert items[2].reason == "took more than 0.3 s to read; see --time-limit"
    source.release.set()


class Skipping(MadeUp):
    """Each image takes a while, in which bytes that nobody needs are read, as in a compressed archive."""

    last_progress = 0.0

    def image(self, index: int) -> Any:
        for _ in range(6):
            time.sleep(0.1)
            self.last_progress = time.monotonic()
        return super().image(index)


def test_the_time_limit_starts_at_the_last_progress() -> None:
    items = list(decode_source(Skipping(2), range(2), SMALL, threads=2, ahead=2, time_limit=0.3))
    assert [item.reason for item in items] == ["", ""]


def test_leaving_early_does_not_wait_for_a_stuck_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "JOIN_SECONDS", 0.2)
    source = Stuck(20, {1})
    stream = decode_source(source, range(20), SMALL, threads=2, ahead=8)
    next(stream)
    started = time.perf_counter()
    stream.close()
    assert time.perf_counter() - started < 5
    source.release.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it dies: here its clock fails it after it took the image, outside of what it guards."""

    class Dying(threading.Event):
        def set(self) -> None:
            if self.dies:
                raise MemoryError("no memory for a traceback")
            super().set()

    jobs: list[Any] = []

    def job(position: int) -> Any:
        made = decoding_job(position)
        made.done = Dying()
        made.done.dies = position in (2, 3, 7)
        jobs.append(made)
        return made

    decoding_job = decoding.DecodeJob
    monkeypatch.setattr(decoding, "DecodeJob", job)
    items = list(decode_source(MadeUp(12), range(12), SMALL, threads=2, ahead=4))
    assert [item.position for item in items] == list(range(12))
    assert [item.position for item in items if item.pixels is None] == [2, 3, 7]
    assert items[2].reason == "the thread that decoded it died"


@pytest.mark.parametrize("error", [OSError("the network is gone"), MemoryError("too large")])
def test_what_goes_wrong_with_an_image_is_its_reason(error: Exception) -> None:
    class Failing(MadeUp):
        def image(self, index: int) -> Any:
            raise error

    (item,) = decode_source(Failing(1), range(1), SMALL, 1, 1)
    wanted = Decoded("000000.png", None, (0, 0), f"cannot be read: {error}", 0, None, item.seconds, error)
    assert item == wanted


@pytest.mark.parametrize("error", [UnavailableError("x"), MisuseError("y"), AssertionError("bug")])
def test_what_is_no_fault_of_an_image_ends_the_run(error: Exception) -> None:
    class Failing(MadeUp):
        def image(self, index: int) -> Any:
            if index == 1:
                raise error
            return super().image(index)

    stream = decode_source(Failing(3), range(3), SMALL, 2, 4)
    next(stream)
    with pytest.raises(type(error), match=str(error)):
        next(stream)


def test_the_pixel_limit_is_the_callers(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    ids = [str(tmp_path / "a.png")]
    (small,) = decode_ahead(ids, SMALL, 1, 1, ImageLimits.of(1199))
    (fine,) = decode_ahead(ids, SMALL, 1, 1, ImageLimits.of(1200))
    assert "got 40x30 pixels, wanted at most 1199; shrink it first or raise --max-pixels" in small.reason
    assert fine.reason == ""
