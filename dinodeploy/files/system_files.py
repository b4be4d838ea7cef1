"""Files that systems, file servers and file managers leave in any folder: for us they are not there.

A file that is deleted while it is open stays as `.nfs…` or `.fuse_hidden…` until it is closed. Signed bundles
are the exception: nothing in them may be unsigned (`bundle/signing.py`).
"""

from __future__ import annotations

import re
from pathlib import Path

from dinodeploy.errors import OutputExistsError

_NAMES = {
    *(".ds_store", ".localized", ".appledouble", ".fseventsd", ".temporaryitems"),  # macOS
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
    *("lost+found", ".directory", "@eadir", ".snapshot"),  # Linux, KDE, Synology, NetApp
}
_PATTERN = re.compile(
    r"\.nfs[0-9a-f]+|\.fuse_hidden.*|\.trash(es|-.*)?|\._.+|\.spotlight-.*|\.smbdelete.*|icon\r", re.DOTALL
)


def is_system_file(name: str) -> bool:
    """Whether a file or folder of this name is left by a system, whatever the case."""
    name = name.casefold()
    return name in _NAMES or _PATTERN.fullmatch(name) is not None


def is_in_system_folder(name: str) -> bool:
    """The same of a path with slashes: whether it, or a folder on the way, is left by a system."""
    return any(map(is_system_file, name.split("/")))


def entries(folder: Path) -> list[Path]:
    """What a folder holds but what systems leave."""
    return [path for path in folder.iterdir() if not is_system_file(path.name)]


def is_free(target: Path) -> bool:
    """Whether nothing is at `target`, or an empty folder, so that a command may write there."""
    return not target.exists() or (target.is_dir() and not entries(target))


def refuse_existing(
    target: Path, overwrite: bool, *, is_own: bool, wrong: str, held: str, other: str = "another --out"
) -> None:
    """Raises OutputExistsError unless `target` is free, or the command's own kind and may be overwritten.

    wrong: what a foreign folder is ("not a bundle"). held: what ours holds. other: what to give instead.
    """
    if is_free(target):
        return
    if not is_own:
        raise OutputExistsError(f"{target} exists and is {wrong}; choose {other}")
    if not overwrite:
        raise OutputExistsError(f"{target} holds {held} already; give --overwrite or {other}")
