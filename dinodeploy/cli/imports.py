"""Import without Python's collector of cycles, which would search all that is alive over and over.

An import makes objects by the hundred thousand, and hardly one of them is garbage before the process ends: a
tenth of the time of a first embedding (`benchmarks/LOG.md`).
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from types import ModuleType


def import_quickly(name: str) -> ModuleType:
    """The module; if it is new, nothing is collected meanwhile, and what it made is never searched again."""
    there = sys.modules.get(name)
    if there is not None or not gc.isenabled():
        return there or import_module(name)
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()
