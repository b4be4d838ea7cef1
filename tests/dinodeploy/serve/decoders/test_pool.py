"""Decoder processes under hostile images: small ones are answered, what exceeds its limits is replaced."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinodeploy.images.open import open_image
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.serve.decoders import pool as pools
from dinodeploy.serve.decoders.formats import ACCEPTED
from dinodeploy.serve.decoders.pool import DecoderPool
from dinodeploy.serve.decoders.wire import Job
from dinodeploy.serve.refused import Refused
from tests.support.images.hostile_images import encode, many_scans, png_bomb
from tests.support.images.photographs import photograph

PREPROCESS = Preprocess.from_preset("official", (64, 64), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
JOB = Job("embed", 50_000_000, ACCEPTED, PREPROCESS)
SMALL = encode(photograph("chelsea").resize((120, 90)), "JPEG")
PIXELS = PREPROCESS(open_image(SMALL))
TIMEOUT = 60.0


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    opened = DecoderPool(1, memory=700 << 20, pixels=50_000_000, seconds=1, waiting=8)
    wait_for(lambda: len(opened.processes) == 2)
    yield opened
    opened.close()
    assert opened.processes == []


def wait_for(condition: Any) -> None:
    until = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def ask(pool: DecoderPool, data: bytes, group: object = None) -> Future[Any]:
    return pool.submit(JOB, data, group or object())


def noisy_scans() -> bytes:
    """A JPEG of 9 megapixels that takes some five seconds to decode."""
    data = encode(Image.effect_noise((3000, 3000), 80), "JPEG", progressive=True, quality=90)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 90 + b"\xff\xd9"


def small_is_answered(pool: DecoderPool) -> float:
    before = time.monotonic()
    np.testing.assert_array_equal(ask(pool, SMALL).result(TIMEOUT).pixels, PIXELS)
    return time.monotonic() - before


def test_a_small_image_is_answered_while_large_ones_wait(pool: DecoderPool) -> None:
    large = [ask(pool, many_scans(60, 6000)) for _ in range(4)]
    wait_for(lambda: pool.parked)
    assert max(small_is_answered(pool) for _ in range(10)) < 1
    assert not all(one.done() for one in large)
    assert pool.ready
    for one in large:
        one.cancel()
    wait_for(lambda: not pool.parked)
    small_is_answered(pool)


def test_an_image_past_its_seconds_is_refused_and_its_process_replaced(pool: DecoderPool) -> None:
    lines: list[str] = []
    pool.log = lines.append
    with pytest.raises(Refused, match="too long to decode") as refused:
        ask(pool, noisy_scans()).result(TIMEOUT)
    assert refused.value.status == 422
    assert "SIGXCPU" in lines[0] or "past its deadline" in lines[0]  # on a busy machine
    wait_for(lambda: len(pool.processes) == 2 and pool.ready)
    small_is_answered(pool)


def test_an_image_past_its_memory_is_refused() -> None:
    tight = DecoderPool(1, memory=100 << 20, pixels=50_000_000, seconds=5, waiting=8)
    try:
        with pytest.raises(Refused, match="more memory") as refused:
            ask(tight, png_bomb(7000)).result(TIMEOUT)
        assert refused.value.status == 413
        small_is_answered(tight)
    finally:
        tight.close()


def test_killed_processes_are_replaced_and_their_image_is_decoded_again(pool: DecoderPool) -> None:
    for _ in range(3):
        for process in pool.processes:
            os.kill(process, signal.SIGKILL)
        small_is_answered(pool)
    wait_for(lambda: len(pool.processes) == 2 and pool.ready)


def test_stopped_processes_are_not_ready_and_are_replaced(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "STUCK", 1.0)
    small_is_answered(pool)
    wait_for(lambda: len(pool.processes) == 2 and pool.ready)
    time.sleep(0.5)
    stopped = pool.processes
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    asked = [ask(pool, SMALL) for _ in range(3)]
    wait_for(lambda: not pool.ready)
    wait_for(lambda: not set(stopped) & set(pool.processes))
    for one in asked:
        one.result(TIMEOUT)
    assert pool.ready


def test_idle_processes_that_are_stopped_or_killed_are_replaced(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "STUCK", 1.0)
    monkeypatch.setattr(pools, "PING_SECONDS", 0.1)
    small_is_answered(pool)
    time.sleep(0.5)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        before = pool.processes
        for process in before:
            os.kill(process, number)
        wait_for(lambda: not pool.ready)
        wait_for(
            lambda old=before: pool.ready and len(pool.processes) == 2 and not set(old) & set(pool.processes)
        )


def test_processes_that_do_not_start_are_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    broken = DecoderPool(1, memory=1 << 28, pixels=1, seconds=1, waiting=8)
    asked = ask(broken, SMALL)
    time.sleep(0.3)
    assert not broken.ready
    before = time.monotonic()
    broken.close()
    assert time.monotonic() - before < 1
    with pytest.raises(Refused, match="shutting down"):
        asked.result(TIMEOUT)


def test_of_too_many_large_images_the_most_expensive_is_refused() -> None:
    pool = DecoderPool(1, memory=700 << 20, pixels=50_000_000, seconds=60, waiting=8)
    cheaper, dearer = many_scans(90, 6500), many_scans(90, 7000)
    busy = []
    while pool.parked < 9:  # 8 wait and one runs
        busy.append(ask(pool, cheaper))
        time.sleep(0.1)
    expensive = ask(pool, dearer)
    with pytest.raises(Refused, match="8 images are waiting") as refused:
        expensive.result(TIMEOUT)
    assert refused.value.status == 503
    for one in busy:
        one.cancel()
    pool.close()


def test_close_ends_a_decoder_that_is_busy() -> None:
    pool = DecoderPool(1, memory=700 << 20, pixels=50_000_000, seconds=60, waiting=8)
    asked = ask(pool, many_scans(90, 7000))
    wait_for(lambda: pool.parked)
    processes = pool.processes
    before = time.monotonic()
    pool.close()
    assert time.monotonic() - before < 1
    assert not asked.done() or asked.exception()
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_images_of_one_colour_and_any_mode_are_decoded(pool: DecoderPool) -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        data = encode(Image.new(mode, (40, 30)), "PNG")
        wanted = PREPROCESS(open_image(data))
        np.testing.assert_array_equal(ask(pool, data).result(TIMEOUT).pixels, wanted)
