"""Files and directories appear whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

from dinodeploy.files import atomic
from dinodeploy.files.atomic import (
    atomic_directory,
    atomic_file,
    atomic_path,
    begin_directory,
    commit_directory,
    move_into_place,
)
from dinodeploy.files.notes import note_once


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["f"]


def test_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"half", "not bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_directory_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "out"
    target.mkdir(parents=True)
    (target / "old").touch()
    partial = begin_directory(target)
    (partial / "sub").mkdir()
    (partial / "sub" / "new").write_text("x")
    assert names(target) == ["old"]
    commit_directory(partial, target)
    assert names(target) == ["sub"]
    assert names(target.parent) == ["out"]


def test_two_writers_have_two_names(tmp_path: Path) -> None:
    """Process ids repeat: two containers on one volume may both run as process 1."""
    first = begin_directory(tmp_path / "out")
    (first / "half").touch()
    assert names(begin_directory(tmp_path / "out")) == []
    assert names(first) == ["half"]
    with atomic_file(tmp_path / "f") as one, atomic_file(tmp_path / "f") as other:
        one.write(b"one")
        other.write(b"other")
    assert (tmp_path / "f").read_bytes() == b"one"


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one who guesses the hidden name cannot make us write elsewhere."""
    monkeypatch.setattr("os.urandom", bytes)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".f.partial-0000000000000000").symlink_to(victim)
    with pytest.raises(FileExistsError), atomic_file(tmp_path / "f"):
        pass
    with pytest.raises(FileExistsError):
        begin_directory(tmp_path / "f")
    assert victim.read_text() == "precious"
    assert names(tmp_path) == [".f.partial-0000000000000000", "victim"]


@pytest.mark.parametrize("name", ["n" * 255, "ß" * 127, "日" * 85])
def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path, name: str) -> None:
    with atomic_file(tmp_path / name) as file:
        file.write(b"x")
    assert names(tmp_path) == [name]


def test_a_file_that_is_opened_by_name_keeps_its_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "v.mp4") as partial:
        assert partial.suffix == ".mp4"
        partial.write_bytes(b"x")
    assert names(tmp_path) == ["v.mp4"]
    with suppress(KeyError), atomic_path(tmp_path / "w.mp4") as partial:
        raise KeyError("x")
    assert names(tmp_path) == ["v.mp4"]


def write_everything(folder: Path) -> None:
    """One of each kind of write."""
    with atomic_file(folder / "file") as file:
        file.write(b"x")
    with atomic_path(folder / "path.mp4") as partial:
        partial.write_bytes(b"x")
    for _ in range(2):  # the second replaces the first
        with atomic_directory(folder / "directory") as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / "file").write_bytes(b"x")
            (partial / "link").symlink_to("nowhere")
            os.mkfifo(partial / "fifo")
    (folder / "source").write_bytes(b"x")
    move_into_place([(folder / "source", folder / "moved")])


WRITTEN = ["directory", "file", "moved", "path.mp4"]


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EACCES", "EPERM", "EBADF"])
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_file_system_that_cannot_flush_directories_is_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str, code: str
) -> None:
    real_open, real_fsync = os.open, os.fsync
    error = OSError(getattr(errno, code), "cannot")

    def refuse_to_open(path: object, flags: int, *rest: object, **named: object) -> int:
        if not named and not flags & os.O_CREAT and os.path.isdir(path):  # type: ignore[arg-type]  # noqa: PTH112
            raise error
        return real_open(path, flags, *rest, **named)  # type: ignore[arg-type]

    def refuse_to_flush(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise error
        real_fsync(descriptor)

    note_once.cache_clear()
    monkeypatch.setattr(os, call, {"open": refuse_to_open, "fsync": refuse_to_flush}[call])
    with caplog.at_level(logging.WARNING, "dinodeploy"):
        write_everything(tmp_path)
    assert names(tmp_path) == WRITTEN
    assert len(caplog.records) == 1
    assert "cannot flush" in caplog.text


@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EDQUOT"])
def test_a_disk_that_fails_to_flush_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(getattr(errno, code), "failed")

    monkeypatch.setattr(os, "fsync", fail)
    for write in (atomic_file, atomic_path, atomic_directory):
        with pytest.raises(OSError, match="failed"), write(tmp_path / "f"):
            pass
    assert names(tmp_path) == []


def test_no_file_is_flushed_through_a_descriptor_that_may_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows flushes none; every system flushes one that may write."""
    import fcntl

    real, flushed = os.fsync, []

    def check(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            flushed.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", check)
    write_everything(tmp_path)
    assert flushed
    assert os.O_RDONLY not in flushed


def test_a_missing_file_cannot_be_flushed_in_silence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic.sync(tmp_path / "absent")


def test_failed_rename_puts_the_old_directory_back(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError):
        commit_directory(tmp_path / "absent", target)
    assert names(target) == ["old"]
    assert names(tmp_path) == ["out"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out") as partial:
        (partial / "a").touch()
    assert names(tmp_path / "out") == ["a"]
    with suppress(KeyError), atomic_directory(tmp_path / "other") as partial:
        (partial / "a").touch()
        raise KeyError("x")
    assert names(tmp_path) == ["out"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # scandir, interrupted
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("exists", [True, False])
def test_an_interrupt_at_any_call_leaves_no_hidden_folder(
    exists: bool, exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python handles signals when a call of C code returns; here one comes at each of them, one a run."""
    if not exchange:
        monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    ended = False
    count = 0
    while not ended:
        target = tmp_path / f"{count}" / "target"
        if exists:
            target.mkdir(parents=True)
            (target / "f").write_text("old")
        ended = not interrupted_at(count, target)
        assert names(target.parent) in ([["target"]] if exists else [["target"], []]), f"call {count}"
        if target.exists():
            assert (target / "f").read_text() in ("old", "new")
        count += 1
    assert count > 40


def interrupted_at(count: int, target: Path) -> bool:
    """Whether writing the folder made so many calls; the interrupt came then."""
    left = count

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        if event == "c_return":
            left -= 1
            if left == -1:
                raise KeyboardInterrupt

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        sys.setprofile(on_event)
        with atomic_directory(target) as partial:
            (partial / "f").write_text("new")
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return left < 0


@pytest.mark.parametrize("swaps", [True, False])
def test_a_link_to_a_directory_is_replaced_and_what_it_names_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    with atomic_directory(tmp_path / "link") as partial:
        (partial / "file").write_bytes(b"new")
    assert names(tmp_path) == ["link", "real"]
    assert (tmp_path / "link/file").read_bytes() == b"new"
    assert (tmp_path / "real/file").read_bytes() == b"old"
