"""Run mutants of a file through a parser and record what the parser does.

A parser may accept a mutant or refuse it with a one-line error of ours. It may not raise another error, take
long, write or rename outside its folder, start a program, open a connection, or unpickle.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from dinodeploy.errors import DinodeployError

Attack = Callable[[Random], object]  # writes one mutant and parses it
LIMIT_SECONDS = 5.0  # of CPU for one mutant; measured: 0.4 at most
_LONGEST = 2000  # characters of a message
_NEVER = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
_CHANGES = ("os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


class Violation(BaseException):
    """A forbidden action. Not an Exception, so that no parser can catch it."""


@dataclass
class Outcome:
    """Numbers of accepted and refused mutants, and the first failure."""

    taken: int = 0
    refused: int = 0
    slowest: float = 0.0
    failure: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run_attack(attack: Attack, count: int, seed: int, ours: tuple[type[Exception], ...]) -> Outcome:
    """Run `count` mutants with seeds from `seed` on; stop at the first failure. ours: allowed errors."""
    outcome = Outcome()
    for number in range(seed, seed + count):
        started = time.process_time()
        try:
            attack(Random(number))
            outcome.taken += 1
        except ours as error:
            outcome.refused += 1
            text = str(error)
            if not text or "\n" in text or len(text) > _LONGEST:
                outcome.failure = f"seed {number}: not a one-line message: {text[:300]!r}"
        except (Exception, Violation):
            outcome.failure = f"seed {number}: {traceback.format_exc(limit=-6)}"
        seconds = time.process_time() - started
        outcome.slowest = max(outcome.slowest, seconds)
        if seconds > LIMIT_SECONDS:
            outcome.failure = f"seed {number}: took {seconds:.1f} s"
        if outcome.failure:
            break
    return outcome


def confine(folder: Path) -> None:
    """Let this process change files only inside `folder`, and start nothing. This cannot be undone."""
    inside = os.path.realpath(folder)
    cache = ("__pycache__", "/dev/null")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NEVER:
            raise Violation(f"{event} {arguments[:2]}")
        if event in _CHANGES or (event == "open" and _writes(arguments)):
            for path in _paths(event, arguments):
                if not path.startswith(inside) and not any(part in path for part in cache):
                    raise Violation(f"{event} {path!r}, which is outside {inside}")

    sys.addaudithook(hook)


def _paths(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """The absolute paths of an event; given paths may be relative to an open folder."""
    count = 2 if event in ("os.rename", "os.link") else 1
    last = arguments[-1]  # dir_fd, except for "open"
    folders = [last] if event != "open" and type(last) is int and last >= 0 else []
    found = []
    for path in arguments[:count]:
        if isinstance(path, (str, bytes, os.PathLike)):
            base = os.readlink(f"/proc/self/fd/{folders[-1]}") if folders else os.getcwd()  # noqa: PTH109, PTH115
            found.append(os.path.normpath(os.path.join(base, os.fsdecode(path))))  # noqa: PTH118
    return found


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


OURS: tuple[type[Exception], ...] = (DinodeployError,)
