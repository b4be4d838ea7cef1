"""Lock a store for writing: by one process, or by the n processes of `--shards i/n`.

    OUT/.embed/gate           held shared by the n processes, exclusively by a single one
    OUT/.embed/part-i-of-n    held exclusively by that process; names it: {"pid", "host"}

These are locks of the system (`files/lock.py`), which end with their process, so no stale lock blocks a run.
On a file system without locks they are skipped; shards are atomic without them.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files.json_file import read_json
from dinodeploy.files.lock import lock
from dinodeploy.store.plan import WORK

_TRIES = 100  # to lock a file that its last holder did not delete


class StoreLock:
    """The lock on part i of n of the store at `out`. Take it before anything is written.

    Raises MisuseError when another process holds it, OSError when the folder cannot be written.
    """

    def __init__(self, out: Path, part: tuple[int, int]) -> None:
        index, of = part
        self._held: list[int] = []
        self.held = True  # False where the file system has no locks
        work = out / WORK
        if work.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, "its folder .embed is a link", work)
        work.mkdir(parents=True, exist_ok=True)
        try:
            self._take(work / "gate", out, part, shared=of > 1)
            own = self._take(work / f"part-{index}-of-{of}", out, part)
            os.ftruncate(own, 0)
            os.write(own, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        except BaseException:
            self.release()
            raise

    def _take(self, path: Path, out: Path, part: tuple[int, int], *, shared: bool = False) -> int:
        for tries_left in reversed(range(_TRIES)):
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            self._held.append(file)
            try:
                self.held &= lock(file, shared=shared)
            except BlockingIOError as error:
                what = "it is" if part[1] == 1 else f"part {part[0]}/{part[1]}, or the whole store, is"
                raise MisuseError(
                    f"{out}: {what} being written by {_holders(path.parent)}; "
                    "wait for it to finish, or choose another --out"
                ) from error
            if _is_still(path, file) or not tries_left:  # some file systems number one file in two ways
                return file
            os.close(self._held.pop())
        raise AssertionError("the last try returns")

    def release(self) -> None:
        for file in self._held:
            os.close(file)
        self._held = []


def _is_still(path: Path, file: int) -> bool:
    """Whether an open file is still the one at `path`: its last holder may have deleted it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return False


def _holders(work: Path) -> str:
    """The processes that hold a part, as their lock files name them."""
    found = []
    for path in sorted(work.glob("part-*")):
        try:
            with path.open("r+b") as file:  # a network file system locks only what may be written
                lock(file.fileno())
        except BlockingIOError:
            found.append(_signature(path))
        except OSError:
            continue
    return ", ".join(found) or "another process"


def _signature(path: Path) -> str:
    try:
        signed = read_json(path, "small")
        return f"process {signed['pid']} on {signed['host']}"
    except (BundleError, LookupError, TypeError):  # locked, but not yet signed
        return "another process"
