"""The per-user cache directory: receipts, features and unpacked bundles that may be deleted at any time."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
from pathlib import Path

from dinodeploy.files.notes import note_once


def cache_dir(name: str) -> Path:
    """`$XDG_CACHE_HOME/dinodeploy/NAME`, or the same under ~/.cache. Not created here.

    Where it is missing and cannot be made (a container without a home directory, a read-only disk), a
    directory of this process that is removed at its end; where there is no temporary directory either, a path
    that cannot be written. Source: https://specifications.freedesktop.org/basedir-spec/latest/
    """
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME, and no entry in the list of users
        return _of_this_process() / name
    place = base / "dinodeploy" / name
    return place if place.exists() or _can_be_made(place) else _of_this_process() / name


def _can_be_made(place: Path) -> bool:
    """Whether the nearest directory above that exists can be written."""
    above = next((folder for folder in place.parents if os.path.lexists(folder)), place)
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


@functools.cache
def _of_this_process() -> Path:
    import tempfile  # rarely needed, and `import dinodeploy` stays light

    try:
        folder = Path(tempfile.mkdtemp(prefix="dinodeploy_cache_"))
    except OSError:  # no temporary directory
        folder = Path(os.devnull, "dinodeploy")
        note_once(
            "no cache directory can be written: nothing is cached; set XDG_CACHE_HOME to a folder that can"
        )
    else:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        note_once(
            "no cache directory can be written: what is cached is kept for this run only; set XDG_CACHE_HOME "
            "to a folder that can"
        )
    return folder
