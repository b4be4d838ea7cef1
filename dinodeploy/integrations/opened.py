"""Open a bundle once per process, and share it: for objects that travel between processes as a path.

embedder = opened("bundle", threads=2)  # a second call with the same arguments returns the same one
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from dinodeploy.bundle.manifest import FILE_NAME
from dinodeploy.embedder import Embedder

KEPT = 4  # opened bundles of a process, the last used ones

_Key = tuple[Any, ...]


class _Opened:
    """The embedders of one process, the last used one last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._embedders: OrderedDict[_Key, Embedder] = OrderedDict()

    def get(self, bundle: str, options: dict[str, Any]) -> Embedder:
        key = (bundle, _stamp(bundle), *sorted(options.items()))
        with self._lock:
            if key not in self._embedders:
                self._embedders[key] = Embedder.open(bundle, **options)
                while len(self._embedders) > KEPT:
                    self._embedders.popitem(last=False)  # its memory is freed when its last user is gone
            self._embedders.move_to_end(key)
            return self._embedders[key]


# By process id: a forked process must neither use nor free engines whose threads only its parent has.
_OPENED: dict[int, _Opened] = {}


def opened(bundle: str | os.PathLike[str], **options: Any) -> Embedder:
    """The embedder of `bundle` in this process, opened if it is not yet. Do not close it: others may use it.

    options: those of `Embedder.open`. A bundle that was replaced on disk is opened again. Raises as
    `Embedder.open`.
    """
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return _OPENED.setdefault(os.getpid(), _Opened()).get(os.fspath(bundle), given)


def _stamp(bundle: str) -> tuple[int, ...] | None:
    """What changes when the bundle at a path is replaced."""
    for path in (Path(bundle) / FILE_NAME, Path(bundle).parent / FILE_NAME):
        if path.is_file():
            found = path.stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
    return None
