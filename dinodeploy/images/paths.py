"""From the paths a user types to the ids of the pictures, in an order that never changes.

    a file                  itself, whatever its name
    a folder                its pictures, by suffix, in sorted order, sub-folders included
    a name that is no path  a glob: *.jpg, photos/**/*.png

Hidden files and folders inside a folder are left out. Something that bears a picture's name but cannot be
one (a broken link, a FIFO) is listed: `embed` will say so. An id is the path as it was reached, with /.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dinodeploy.errors import MisuseError

# In lower case; compared without regard to case.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif",
)  # fmt: skip


def list_images(paths: Sequence[str | Path]) -> list[str]:
    """Ids of all pictures under `paths`, each once, in order.

    Raises MisuseError for a path that is not there and when there is no picture at all.
    """
    ids: dict[str, None] = {}  # a set that remembers its order
    for path in paths:
        for found in expand_path(path):
            ids.update(dict.fromkeys(walk_folder(found) if os.path.isdir(found) else [found]))  # noqa: PTH112
    if not ids:
        raise MisuseError(no_picture(paths))
    return list(ids)


def no_picture(paths: Sequence[str | Path]) -> str:
    """What to say where nothing was found."""
    shown = ", ".join(repr(str(path)) for path in paths) or "no path"
    return f"no picture under {shown}; looked for {' '.join(SUFFIXES)}"


def has_picture_suffix(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def is_wanted_member(name: str) -> bool:
    """Of an archive: a picture by its suffix, neither hidden itself nor in a hidden folder."""
    return has_picture_suffix(name) and not any(part.startswith(".") for part in name.split("/"))


def expand_path(path: str | Path) -> list[str]:
    """The path itself if it is there, else what it matches as a glob. Raises MisuseError for neither."""
    text = str(path)
    if not text or "\0" in text:
        raise MisuseError(f"{text!r} is no path; wanted files, folders or globs of pictures")
    if os.path.lexists(text):
        return [Path(text).as_posix()]
    matches = sorted(Path(match).as_posix() for match in glob.glob(text, recursive=True))  # noqa: PTH207
    if not matches:
        what = "matches nothing" if glob.has_magic(text) else "does not exist"
        raise MisuseError(f"{text!r} {what}; wanted files, folders or globs of pictures")
    return matches


def walk_folder(folder: str, *, recursive: bool = True) -> Iterator[str]:
    """Pictures below a folder, depth first. Each real folder is entered once, so links cannot loop."""
    entered: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        path = pending.pop()
        if not os.path.isdir(path):  # noqa: PTH112
            yield path
            continue
        status = Path(path).stat()
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        if recursive or path == folder:
            pending += reversed(_children(path))


def _children(folder: str) -> list[str]:
    """Sub-folders and pictures of one folder, sorted by name."""
    try:
        paths = sorted(Path(folder).iterdir())
    except OSError as error:
        raise MisuseError(
            f"{folder!r} cannot be listed: {error.strerror}; leave it out or mend it"
        ) from error
    return [path.as_posix() for path in paths if not path.name.startswith(".") and _is_wanted(path)]


def _is_wanted(path: Path) -> bool:
    return has_picture_suffix(path.name) or os.path.isdir(path)  # noqa: PTH112
