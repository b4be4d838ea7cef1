"""A temporary folder that only this user can read, removed when nothing refers to it or the process ends.

What a killed process left is removed by the next process that makes such a folder. TMPDIR chooses the place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from dinodeploy.errors import UnavailableError, reason_of
from dinodeploy.files.unfinished.held import hold, release, remove_abandoned

PREFIX = "dinodeploy-private-"


class PrivateFolder:
    """The folder is `path`. `what` names its use in the message when there is no place for it.

    Raises UnavailableError.
    """

    def __init__(self, what: str) -> None:
        try:
            place = Path(tempfile.gettempdir())
            remove_abandoned(path for path in place.glob(f"{PREFIX}*") if _is_ours(path))
            held = None
            while held is None:
                self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
                held = hold(self.path)
        except OSError as error:
            raise UnavailableError(
                f"no temporary folder for {what}: {reason_of(error)}; set TMPDIR to a writable folder"
            ) from error
        self._remove = weakref.finalize(self, _remove, self.path, held, os.getpid())

    def remove(self) -> None:
        """Remove the folder now; a second call does nothing."""
        self._remove()


def _is_ours(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid() if hasattr(os, "getuid") else True
    except OSError:
        return False


def _remove(path: Path, held: int, process: int) -> None:
    if os.getpid() == process:  # and not in a fork, which has the same objects
        shutil.rmtree(path, ignore_errors=True)
    release(held)
