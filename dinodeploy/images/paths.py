"""List the images under paths, folders and globs, in a stable order.

    a file                     itself, whatever its name
    a folder                   its images, by suffix, sorted, sub-folders included
    a name that does not exist a glob: *.jpg, photos/**/*.png

Hidden files and folders inside a folder are left out. What has an image's name but cannot be one (a broken
link, a FIFO) is listed, and `embed` reports it. An id is the path as it was reached, with /.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dinodeploy.errors import MisuseError
from dinodeploy.images.kinds import has_image_suffix, read_suffixes


def list_images(paths: Sequence[str | Path]) -> list[str]:
    """Ids of all images under `paths`, each once, in order.

    Raises MisuseError for a path that does not exist, and if there is no image.
    """
    ids: dict[str, None] = {}  # an ordered set
    for path in paths:
        for found in expand_path(path):
            ids.update(dict.fromkeys(walk_folder(found) if os.path.isdir(found) else [found]))  # noqa: PTH112
    if not ids:
        raise MisuseError(no_image(paths))
    return list(ids)


def no_image(paths: Sequence[str | Path]) -> str:
    """The message when no image was found."""
    shown = ", ".join(repr(str(path)) for path in paths) or "no path"
    return f"no image under {shown}; looked for {' '.join(read_suffixes())}"


def is_wanted_member(name: str) -> bool:
    """Whether an archive member is an image by its suffix, not hidden and not in a hidden folder."""
    return has_image_suffix(name) and not any(part.startswith(".") for part in name.split("/"))


def expand_path(path: str | Path) -> list[str]:
    """The path itself if it exists, else what it matches as a glob. Raises MisuseError for neither."""
    text = str(path)
    if not text or "\0" in text:
        raise MisuseError(f"{text!r} is not a path; wanted files, folders or globs of images")
    if os.path.lexists(text):
        return [Path(text).as_posix()]
    matches = sorted(Path(match).as_posix() for match in glob.glob(text, recursive=True))  # noqa: PTH207
    if not matches:
        what = "matches nothing" if glob.has_magic(text) else "does not exist"
        raise MisuseError(f"{text!r} {what}; wanted files, folders or globs of images")
    return matches


def walk_folder(folder: str, *, recursive: bool = True) -> Iterator[str]:
    """Images below a folder, depth first. Each real folder is entered once, so links cannot loop."""
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
    """Sub-folders and images of one folder, sorted by name."""
    try:
        paths = sorted(Path(folder).iterdir())
    except OSError as error:
        raise MisuseError(f"{folder!r} cannot be listed: {error.strerror}; leave it out or fix it") from error
    return [path.as_posix() for path in paths if not path.name.startswith(".") and _is_wanted(path)]


def _is_wanted(path: Path) -> bool:
    return has_image_suffix(path.name) or os.path.isdir(path)  # noqa: PTH112
