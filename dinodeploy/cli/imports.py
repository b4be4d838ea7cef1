"""Imports without Python's collector of cycles, which would search all that is alive over and over.

An import makes objects by the hundred thousand, and hardly one of them is garbage before the process ends:
a tenth of the time of a first embedding, and a second of an export's end (`benchmarks/LOG.md`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """While open, nothing is collected, and what is alive at the end is never searched again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
