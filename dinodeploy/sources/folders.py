"""List the images under paths, folders and globs, in the same order on every machine.

    a file                     itself, whatever its name
    a folder                   its images, by suffix, sorted by name, sub-folders included
    a name that does not exist a glob: *.jpg, photos/**/*.png

Hidden files and the files that systems put into folders (Thumbs.db, desktop.ini) are left out; other files
without an image's suffix are counted. What has an image's name but cannot be one (a broken link, a FIFO) is
listed, and `embed` reports it. A folder that cannot be listed is `Lost`, the others are read. An id is the
path as it was reached, with /. Names are in the order of their code points, which is that of UTF-8's bytes.
"""

from __future__ import annotations

import errno
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path

from dinodeploy.errors import MisuseError, reason_of
from dinodeploy.files.paths import from_file_url, native_path, portable_path
from dinodeploy.files.system_files import is_system_file
from dinodeploy.images.kinds import has_image_suffix, read_suffixes

_LONGEST_SUFFIX = 12

Skipped = dict[str, Counter[str]]  # folder or archive -> suffix -> number of files that were left out


@dataclass(frozen=True)
class Lost:
    """A folder that cannot be listed. id: its path, with / at the end."""

    folder: str
    reason: str

    @property
    def id(self) -> str:
        return self.folder.rstrip("/") + "/"

    @property
    def message(self) -> str:
        return f"{self.folder!r} cannot be listed: {self.reason}"


@dataclass
class Found:
    """The images under some paths, each once. skipped: see `Skipped`."""

    ids: list[str]
    lost: list[Lost] = field(default_factory=list)
    skipped: Skipped = field(default_factory=dict)

    @property
    def seen(self) -> int:
        """The number of all of them; a folder that cannot be listed counts as one."""
        return len(self.ids) + len(self.lost) + total_of(self.skipped).total()


def find_images(paths: Sequence[str | Path]) -> Found:
    """Ids of all images under `paths`, each once, in order, and the folders that cannot be listed.

    Raises MisuseError for a path that does not exist, and if there is no image.
    """
    skipped: Skipped = {}
    ids: dict[str, None] = {}  # an ordered set
    lost: dict[str, Lost] = {}
    for path in paths:
        for found in expand_path(path):
            is_folder = isinstance(found, str) and os.path.isdir(native_path(found))  # noqa: PTH112
            for one in walk_folder(str(found), skipped) if is_folder else [found]:
                if isinstance(one, Lost):
                    lost[one.id] = one
                else:
                    ids[one] = None
    if not ids:
        raise MisuseError(no_image(paths, skipped, lost.values()))
    return Found(list(ids), list(lost.values()), skipped)


def list_images(paths: Sequence[str | Path], note: Callable[[Skipped], None] | None = None) -> list[str]:
    """Ids of all images under `paths`, each once, in order. note: is told which files were left out.

    Raises MisuseError for a path that does not exist, for a folder that cannot be listed, and if there is no
    image.
    """
    found = find_images(paths)
    if found.lost:
        raise MisuseError(_cannot_list(found.lost[0]))
    if note is not None:
        note(found.skipped)
    return found.ids


def no_image(paths: Sequence[str | Path], skipped: Skipped, lost: Iterable[Lost] = ()) -> str:
    """The message when no image was found."""
    for one in lost:
        return _cannot_list(one)
    shown = ", ".join(repr(str(path)) for path in paths) or "no path"
    counted = skipped_line(total_of(skipped))
    return f"no image under {shown}; looked for {' '.join(read_suffixes())}" + (
        f"; {counted}" if counted else ""
    )


def _cannot_list(lost: Lost) -> str:
    return f"{lost.message}; leave it out or fix it"


def total_of(skipped: Skipped) -> Counter[str]:
    """The number of files that were left out, by suffix."""
    total: Counter[str] = Counter()
    for counts in skipped.values():
        total.update(counts)
    return total


def skipped_line(counts: Counter[str], most: int = 6) -> str:
    """`skipped 3 files: 2 .heic, 1 .dng`; an empty string for no file."""
    if not counts:
        return ""
    files = counts.total()
    return f"skipped {files} file{'s' if files > 1 else ''}: {by_suffix(counts, most)}"


def by_suffix(counts: Counter[str], most: int = 6) -> str:
    """`2 .heic, 1 .dng`: the `most` frequent suffixes."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count} {suffix or 'without suffix'}" for suffix, count in ordered[:most]]
    if len(ordered) > most:
        shown.append(f"{sum(count for _, count in ordered[most:])} others")
    return ", ".join(shown)


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case; an empty string without one, or with an unusual one."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    usual = dot and stem and len(suffix) <= _LONGEST_SUFFIX and suffix.isalnum()
    return f".{suffix.lower()}" if usual else ""


def is_ignored(name: str) -> bool:
    """Whether a file or folder is left out without a word: hidden, or written by a system for itself."""
    return name.startswith(".") or is_system_file(name)


def _is_hidden(part: str) -> bool:
    """Whether a part of an archive member's name hides it; `..` leads to a folder, `tar -P` keeps it."""
    return part.startswith(".") and part not in (".", "..")


def is_wanted_member(name: str) -> bool:
    """Whether an archive member is an image by its suffix, not hidden and not in a hidden folder."""
    return has_image_suffix(name) and not any(_is_hidden(part) for part in name.split("/"))


def count_skipped(name: str, counts: Counter[str]) -> None:
    """Count an archive's member that is not taken, unless it or a folder of it is ignored."""
    if not any(part == "__MACOSX" or _is_hidden(part) or is_system_file(part) for part in name.split("/")):
        counts[suffix_of(name)] += 1


# ---- paths and globs -----------------------------------------------------------------------------


def expand_path(path: str | Path) -> list[str | Lost]:
    """The path itself if it exists, else what it matches as a glob. Raises MisuseError for neither."""
    text = portable_path(str(path))
    text = from_file_url(text) or text
    if text.startswith("~") and not os.path.lexists(native_path(text)):
        text = portable_path(os.path.expanduser(text))  # noqa: PTH111  quoted, so that no shell has replaced it
    if not text or "\0" in text:
        raise MisuseError(f"{text!r} is not a path; wanted files, folders or globs of images")
    if os.path.lexists(native_path(text)):
        return [Path(text).as_posix()]
    found = _glob(text) if glob.has_magic(text) else []
    matches = [one for one in found if not isinstance(one, Lost)]
    if not matches:
        for one in found:
            raise MisuseError(no_image([path], {}, [one] if isinstance(one, Lost) else ()))
        what = "matches nothing" if glob.has_magic(text) else "does not exist"
        raise MisuseError(f"{text!r} {what}; wanted files, folders or globs of images")
    return found


def _glob(pattern: str) -> list[str | Lost]:
    """As `glob.glob(pattern, recursive=True)`, sorted; links cannot loop, folders that fail are `Lost`."""
    root = pattern[: len(pattern) - len(pattern.lstrip("/"))]
    found: dict[str, str | Lost] = {}
    for one in _match(root, [part for part in pattern.split("/") if part], set()):
        found[one.id if isinstance(one, Lost) else Path(one).as_posix()] = one
    paths = [key for key, one in found.items() if not isinstance(one, Lost)]
    lost = [one for one in found.values() if isinstance(one, Lost)]
    return [*sorted(paths), *sorted(lost, key=lambda one: one.id)]


def _match(base: str, parts: list[str], entered: set[str]) -> Iterator[str | Lost]:
    """What the pattern `parts` matches below `base`."""
    if not parts:
        yield base
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        real = os.path.realpath(native_path(base or "."))
        if real in entered:
            return
        yield from _match(base, rest, set()) if rest or base else ()
        entries, lost = _entries(base or ".")
        yield from lost
        for name, is_folder in entries:
            if is_folder:
                yield from _match(_join(base, name), parts, entered | {real})
            elif not rest:
                yield _join(base, name)
    elif glob.has_magic(part):
        entries, lost = _entries(base or ".", hidden=part.startswith("."))
        yield from lost
        matches = re.compile(translate(os.path.normcase(part))).match
        for name, is_folder in entries:
            if matches(os.path.normcase(name)) and (is_folder or not rest):
                yield from _match(_join(base, name), rest, set())
    else:
        path = _join(base, part)
        try:
            os.lstat(native_path(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            yield Lost(base or ".", reason_of(error))
            return
        yield from _match(path, rest, set())


def _join(base: str, name: str) -> str:
    return f"{base}/{name}" if base and not base.endswith("/") else base + name


# ---- folders -------------------------------------------------------------------------------------


def walk_folder(folder: str, skipped: Skipped, *, recursive: bool = True) -> Iterator[str | Lost]:
    """Images below a folder, depth first. Each real folder is entered once, so links cannot loop.

    Folders are told apart by their real paths: network drives may number all of them 0.
    """
    entered = {os.path.realpath(native_path(folder))}
    first, lost = _images(folder, skipped)
    yield from lost
    pending = [(folder, iter(first))]
    while pending:
        base, entries = pending[-1]
        prefix = "" if base == "." else base if base.endswith("/") else base + "/"
        for name, is_folder in entries:
            path = prefix + name
            if not is_folder:
                yield path
            elif recursive:
                real = os.path.realpath(native_path(path))
                if real not in entered:
                    entered.add(real)
                    below, lost = _images(path, skipped)
                    yield from lost
                    pending.append((path, iter(below)))
                    break
        else:
            pending.pop()


def _images(folder: str, skipped: Skipped) -> tuple[list[tuple[str, bool]], list[Lost]]:
    """Sub-folders and images of a folder; other files are counted in `skipped`."""
    entries, lost = _entries(folder)
    found = []
    counts: Counter[str] = Counter()
    for entry in entries:
        if entry[1] or has_image_suffix(entry[0]):
            found.append(entry)
        else:
            counts[suffix_of(entry[0])] += 1
    if counts:
        skipped[folder] = counts
    return found, lost


def _entries(folder: str, *, hidden: bool = False) -> tuple[list[tuple[str, bool]], list[Lost]]:
    """(name, whether it is a folder) of a folder, sorted; and the folder where it cannot be listed whole."""
    found: list[tuple[str, bool]] = []
    lost: list[Lost] = []
    try:
        with os.scandir(native_path(folder)) as entries:
            for entry in entries:
                name = portable_path(entry.name)
                if hidden or not is_ignored(name):
                    found.append((name, _is_folder(entry)))
    except (OSError, ValueError) as error:
        lost.append(Lost(folder, reason_of(error)))
    found.sort()
    return found, lost


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link that may be one but cannot be followed."""
    try:
        return entry.is_dir()
    except OSError as error:  # not raised for a link to nowhere
        return error.errno != errno.ENOENT and not has_image_suffix(entry.name)
