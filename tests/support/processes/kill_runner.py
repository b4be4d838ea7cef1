"""Embed in child processes that are killed, or whose disk fails, at a chosen moment.

Run as a process of its own, which has imported everything and has no threads: a child is a fork of it, and
starts within a millisecond. A request a line on stdin, a JSON object; an answer a line on stdout:

    {"out", "bad", "part", "overwrite", "kill_after": seconds}   killed from outside after that time
    {"out", ..., "kill_at": k}                      killed by itself at its k-th change of the file system
    {"out", ..., "fail_at": k, "errno": e}          from its k-th change on, each fails with errno e
    {"out", ..., "versions": {id: version}}         follow a source of `support/followed.py`, --update
    {"out", ..., "no_locks": true}                  on a file system without locks
    -> {"signal", "code", "error", "changes"}       how it ended, and how many changes it made or tried

A change is whatever Python's audit hooks report of the file system (files opened for writing, renamed,
linked, made, removed) and every fsync.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PICTURES, BAD = 14, (3, 8, 9, 10, 11)  # with shards of four: one whole shard is bad, the last is short
_CHANGES = ("os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


class Children:
    """The server, for tests: `with Children() as child: child(out=…, kill_at=7)`."""

    def __enter__(self) -> Children:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.support.processes.kill_runner import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        return self

    def __call__(self, out: Path, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"out": str(out), **request}), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=20)


def serve() -> None:
    sys.modules["pyarrow"] = None  # type: ignore[assignment]  # a second to import, in every child
    import dinodeploy.store.formats.npy
    import tests.support.fake_engine
    import tests.support.followed

    assert dinodeploy.store.formats.npy
    assert tests.support.fake_engine
    assert tests.support.followed
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _embed(request, write)
    os.close(write)
    if "kill_after" in request:
        time.sleep(request["kill_after"])
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    answer = {"error": "", "changes": 0, **(json.loads(said) if said else {})}
    killed = os.WIFSIGNALED(status)
    return {
        "signal": os.WTERMSIG(status) if killed else 0,
        "code": -1 if killed else os.WEXITSTATUS(status),
    } | answer


def _embed(request: dict[str, Any], pipe: int) -> None:
    """The child: never returns."""
    from tests.support.fake_engine import MadeUp, embed_all
    from tests.support.followed import Versions, follow

    if request.get("no_locks"):
        fcntl.flock = _refuse_lock  # type: ignore[assignment]
    changes = _watch(request)
    error, code = "", 0
    try:
        if "versions" in request:
            follow(Path(request["out"]), Versions(request["versions"]))
        else:
            source = MadeUp(PICTURES, request.get("bad", BAD))
            part, overwrite = request.get("part", (1, 1)), request.get("overwrite", False)
            embed_all(source, Path(request["out"]), part=tuple(part), overwrite=overwrite)
    except BaseException as stop:
        error, code = f"{type(stop).__name__}: {stop}", getattr(stop, "exit_code", 99)
    os.write(pipe, json.dumps({"error": error, "changes": changes[0]}).encode())
    os._exit(code)


def _refuse_lock(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _watch(request: dict[str, Any]) -> list[int]:
    """Count changes from now on, and do at one of them what the request says."""
    count = [0]
    fsync = os.fsync

    def change() -> None:
        count[0] += 1
        if count[0] == request.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if count[0] >= request.get("fail_at", sys.maxsize):
            number = request.get("errno", errno.ENOSPC)
            raise OSError(number, os.strerror(number), "disk")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and _writes(arguments)):
            change()

    def counted_fsync(file: int) -> None:
        change()
        fsync(file)

    os.fsync = counted_fsync
    sys.addaudithook(hook)
    return count


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
