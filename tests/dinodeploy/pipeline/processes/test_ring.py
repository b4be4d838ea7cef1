"""Memory that processes share: slots in turn, and nothing left behind."""

from __future__ import annotations

import os

import numpy as np
import pytest

from dinodeploy.pipeline.processes.ring import Ring, map_ring


def test_slots_come_in_turn_and_wait_for_those_before_them() -> None:
    ring = Ring(4, (2,), "float32", 1)
    assert [ring.take() for _ in range(4)] == [0, 1, 2, 3]
    ring.release(2)
    assert ring.room == 0
    ring.release(0)
    assert ring.room == 1
    ring.release(1)
    assert ring.room == 3
    assert [ring.take() for _ in range(3)] == [0, 1, 2]
    ring.close()


def test_a_batch_never_wraps() -> None:
    ring = Ring(5, (1,), "uint8", 1)
    for slot in range(3):
        assert ring.take() == slot
    assert ring.skip(2)  # 3 and 4 are left
    assert ring.skip(3)  # they are not enough: skipped
    assert ring.room == 0
    for slot in range(3):
        ring.release(slot)
    assert ring.room == 5
    assert [ring.take() for _ in range(3)] == [0, 1, 2]
    ring.close()


def test_both_sides_see_the_same_bytes() -> None:
    layout = (3, (2, 2), "float32", 5)
    ring = Ring(*layout)
    clocks, rows = map_ring(ring.fd, *layout)
    rows[1] = [[1, 2], [3, 4]]
    clocks[4] = 7, 1, 0.5
    np.testing.assert_array_equal(ring.rows[1], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(ring.clocks[4], [7, 1, 0.5])
    ring.close()


@pytest.mark.parametrize("refused", [False, True])
def test_the_memory_has_no_name(monkeypatch: pytest.MonkeyPatch, refused: bool) -> None:
    """Also where the system has no memfd_create, or forbids it: nothing remains after kill -9."""

    def refuse(name: str) -> int:
        raise PermissionError(1, "Operation not permitted")

    if refused:
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    ring = Ring(2, (1 << 20,), "uint8", 2)
    assert os.fstat(ring.fd).st_nlink == 0
    ring.rows[1] = 9
    assert ring.rows[1, -1] == 9
    ring.close()


def test_a_system_that_reserves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    ring = Ring(2, (16,), "uint8", 1)
    ring.rows[1] = 5
    assert ring.rows[1, 15] == 5
    ring.close()


def test_a_full_disk_is_an_error_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Ring(2, (16,), "uint8", 1)
