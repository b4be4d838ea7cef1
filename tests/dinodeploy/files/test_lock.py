"""Locks by flock, by Windows's byte ranges, and file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dinodeploy.files.lock import lock, wait_for_lock

Opener = Callable[[], int]
_OFD_SETLK = 37  # of Linux: a lock of the descriptor, as Windows's are, and not of the process


def lock_range(descriptor: int, mode: int, count: int) -> None:
    """`msvcrt.locking` by Linux's locks of open files."""
    assert mode == windows.LK_NBLCK
    start = os.lseek(descriptor, 0, os.SEEK_CUR)
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, count, 0)
    try:
        fcntl.fcntl(descriptor, _OFD_SETLK, request)
    except BlockingIOError as error:
        raise PermissionError(errno.EACCES, "Permission denied") from error


windows = SimpleNamespace(LK_NBLCK=2, locking=lock_range)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens the same file again and again."""
    descriptors: list[int] = []

    def open_file() -> int:
        descriptors.append(os.open(tmp_path / "gate", os.O_RDWR | os.O_CREAT))
        return descriptors[-1]

    yield open_file
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture(params=["flock", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "windows":
        real = importlib.import_module

        def import_module(name: str, package: str | None = None) -> Any:
            if name == "fcntl":
                raise ModuleNotFoundError(name)
            return windows if name == "msvcrt" else real(name, package)

        monkeypatch.setattr(importlib, "import_module", import_module)
    return str(request.param)


@pytest.mark.usefixtures("system")
def test_an_exclusive_lock_keeps_all_others_out(opened: Opener) -> None:
    assert lock(opened())
    for shared in (True, False):
        with pytest.raises(BlockingIOError):
            lock(opened(), shared=shared)


@pytest.mark.usefixtures("system")
def test_shared_locks_keep_an_exclusive_one_out(opened: Opener) -> None:
    assert lock(opened(), shared=True)
    assert lock(opened(), shared=True)
    with pytest.raises(BlockingIOError):
        lock(opened())


@pytest.mark.usefixtures("system")
def test_a_closed_file_holds_nothing_and_the_place_in_the_file_stays(opened: Opener, tmp_path: Path) -> None:
    other = os.open(tmp_path / "gate", os.O_RDWR | os.O_CREAT)
    lock(other)
    os.close(other)
    mine = opened()
    lock(mine)
    os.write(mine, b"signed")
    assert (tmp_path / "gate").read_bytes() == b"signed"


@pytest.mark.parametrize("code", ["ENOLCK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EINVAL"])
def test_a_file_system_without_locks_says_so(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def refuse(file: int, kind: int) -> None:
        raise OSError(getattr(errno, code), "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert lock(opened()) is False


@pytest.mark.usefixtures("system")
def test_waiting_for_another_holder(opened: Opener) -> None:
    first, second = opened(), opened()
    assert wait_for_lock(first, 0)
    started = time.monotonic()
    assert not wait_for_lock(second, 0.05)
    assert time.monotonic() - started >= 0.05
    assert wait_for_lock(opened(), 0) is False


def test_another_error_of_the_system_is_not_taken_for_a_missing_lock(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int, kind: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="broken"):
        lock(opened())


def test_a_system_with_neither_module_has_no_locks(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_nothing(name: str, package: str | None = None) -> ModuleType:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", import_nothing)
    assert lock(opened()) is False
