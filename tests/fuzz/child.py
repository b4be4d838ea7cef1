"""A child process for attacks: if a parser crashes or hangs, the test reports it and continues.

    python -m tests.fuzz.child tests.fuzz.light

One request per line on stdin: {"target", "count", "seed", "folder"}; one Outcome per line on stdout. Parsers
print to stderr. After a crash, the last mutant is still in the folder.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_TIMEOUT = 600.0  # seconds of wall time per target, against hangs without CPU use


class Child:
    """The child process, as the test uses it."""

    def __init__(self, module: str, folder: Path) -> None:
        self._module, self._folder = module, folder
        self._process = self._start()

    def attack(self, target: str, count: int, seed: int) -> dict[str, Any]:
        """Attack one target. AssertionError if the process dies or hangs; the next call starts a new one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder = self._folder / target
        folder.mkdir()
        request = {"target": target, "count": count, "seed": seed, "folder": str(folder)}
        watchdog = threading.Timer(_TIMEOUT, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            code = self._process.wait()
            self.close()
            self._process = self._start()
            raise AssertionError(f"{target}: the process ended with {code}; its last mutant is in {folder}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", self._module, str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self._folder / "cache")},
        )


def serve(module: str, root: Path) -> None:
    """The main loop of the child process."""
    from dinov3_ref.errors import Dinov3Error
    from tests.fuzz.attack import OURS, confine, run_attack

    ours = (*OURS, Dinov3Error)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # Pillow and zipfile warn about damaged files
    tempfile.tempdir = str(root)
    targets = importlib.import_module(module).TARGETS
    confine(root)
    for line in sys.stdin:
        request = json.loads(line)
        attack = targets[request["target"]][0](Path(request["folder"]))
        outcome = run_attack(attack, request["count"], request["seed"], ours)
        print(json.dumps(outcome.as_json()), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
