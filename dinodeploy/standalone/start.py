"""Entry point of `model.pyz`: check the needed packages with the standard library only.

`__main__.py` in the file has checked the version of Python before: this module is no syntax for an old one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import NoReturn

from dinodeploy.errors import UnavailableError
from dinodeploy.hardware import signals

NEEDED = {"numpy": "numpy", "PIL": "pillow", "safetensors": "safetensors"}  # module -> package to install


def main() -> NoReturn:
    """Run the command line, or print one line about what is missing."""
    signals.run_program(_main)


def _main() -> int:
    if problem := missing(NEEDED):
        version = ".".join(map(str, sys.version_info[:3]))
        print(f"error: {sys.argv[0]} cannot run in Python {version} here: {problem}", file=sys.stderr)
        return UnavailableError.exit_code
    from dinodeploy.standalone.command_line import main as command_line

    return command_line()


def missing(needed: Mapping[str, str]) -> str:
    """What this Python lacks and how to get it; empty if nothing is missing."""
    packages = [package for module, package in needed.items() if not _imports(module)]
    if not packages:
        return ""
    return (
        f"it needs {' and '.join(packages)}; install: {sys.executable} -m pip install {' '.join(packages)} "
        "onnxruntime (instead of onnxruntime, any runtime that the bundle has an engine for)"
    )


def _imports(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:  # missing, or built for another Python
        return False
    return True
