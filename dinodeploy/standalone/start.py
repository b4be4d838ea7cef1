"""What `python3 model.pyz` does first, with the standard library alone: is there all that it stands on?"""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from dinodeploy.errors import UnavailableError

OLDEST = (3, 10)
NEEDED = {"numpy": "numpy", "PIL": "pillow"}  # module: what to install


def main() -> NoReturn:
    """Runs the command line, or says in one line what it lacks."""
    if sys.version_info[:2] < OLDEST:
        _stop(f"it needs Python {OLDEST[0]}.{OLDEST[1]} or newer; run it with one: python3.12 {sys.argv[0]}")
    if lacking := _lacking():
        _stop(
            f"it needs {' and '.join(lacking)}; install: {sys.executable} -m pip install "
            f"{' '.join(lacking)} onnxruntime (in place of onnxruntime, any runtime that the bundle has an "
            "engine for)"
        )
    from dinodeploy.standalone.carried import main as with_bundle

    with_bundle()


def _lacking() -> list[str]:
    """What this Python cannot import of what every command needs, by the names to install."""
    found = []
    for module, package in NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError:  # not there, or made for another Python
            found.append(package)
    return found


def _stop(message: str) -> NoReturn:
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"error: {sys.argv[0]} cannot run in Python {version} here: {message}", file=sys.stderr)
    sys.exit(UnavailableError.exit_code)
