"""Decide what may be replaced or deleted in a directory of ours: one check for names read from files.

A name may come from a record that another user edited. It counts as ours only if it is relative, stays inside
the directory without a link on the way, and has a form that our writers produce.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from dinodeploy.errors import BundleError
from dinodeploy.files.system_files import is_in_system_folder

IsWritten = Callable[[str], object]  # whether our writers produce files of this name


def owned_path(root: Path, name: str, is_written: IsWritten) -> Path:
    """The path of `name` in `root`, that may be replaced or deleted. `root` may itself be a link.

    Raises BundleError for an absolute path, a path that leaves `root`, a name that is not written there, and
    where a folder on the way is a link.
    """
    parts = PurePosixPath(name).parts
    if "\0" in name or "\\" in name or PurePosixPath(name).is_absolute() or ".." in parts or not parts:
        raise BundleError(f"{root} lists the file {name!r}, which is outside of it; nothing was deleted")
    if not is_written(name) or "/".join(parts) != name:
        raise BundleError(
            f"{root} lists the file {name!r}, which is never written there; nothing was deleted"
        )
    folder = root
    for part in parts[:-1]:
        folder = folder / part
        try:
            kind = folder.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            break
        if not stat.S_ISDIR(kind):
            raise BundleError(f"{folder} is a link or a file, wanted a folder; move it away")
    return root.joinpath(*parts)


def first_foreign(root: Path, is_written: IsWritten) -> str:
    """The first entry of `root` but folders that our writers did not produce, or an empty string."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if is_in_system_folder(name):
            continue
        if not is_written(name) and (path.is_symlink() or not path.is_dir()):
            return name
    return ""


def remove_owned(root: Path, names: Iterable[str], is_written: IsWritten) -> None:
    """Delete files of `root`, then the folders that this empties; all names are checked first.

    Raises BundleError as `owned_path`, OSError where a file cannot be deleted.
    """
    paths = [owned_path(root, name, is_written) for name in sorted(set(names))]
    for path in paths:
        path.unlink(missing_ok=True)
    depth = len(root.parts)
    folders = {parent for path in paths for parent in path.parents if len(parent.parts) > depth}
    for folder in sorted(folders, reverse=True):  # inner folders first
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
