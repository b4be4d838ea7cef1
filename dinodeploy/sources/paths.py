"""Pictures that are files of their own, here or behind URLs: an id is the path or the URL."""

from __future__ import annotations

from collections.abc import Sequence

from dinodeploy.errors import MisuseError, first_line
from dinodeploy.listing import SUFFIXES
from dinodeploy.sources.storage import attempt, fetch, file_system, is_url


class FileSource:
    """ids: paths and URLs, each once."""

    def __init__(self, ids: Sequence[str], timeout: float = 30.0) -> None:
        self.ids = ids
        self._timeout = timeout

    def picture(self, index: int) -> str | bytes:
        id_ = self.ids[index]
        return fetch(id_, self._timeout) if is_url(id_) else id_

    def close(self) -> None: ...


def list_url(url: str, timeout: float) -> list[str]:
    """URLs of what is at `url`: itself if it is a file, a folder's pictures, what a glob matches. Sorted.

    Over http a URL that does not end in / is one file; nobody is asked before it is read.
    """
    scheme = url.split("://")[0].lower()
    has_magic = any(letter in url for letter in "*[") or (scheme not in ("http", "https") and "?" in url)
    if scheme in ("http", "https") and not url.endswith("/") and not has_magic:
        return [url]
    fs, path = file_system(url, timeout)
    try:
        if has_magic:
            found = attempt(lambda: fs.glob(path), url)
        elif attempt(lambda: fs.isdir(path), url):
            found = [name for name in attempt(lambda: fs.find(path), url) if _is_picture(name)]
        else:
            return [url]
    except OSError as error:
        raise MisuseError(f"{url!r} cannot be listed: {first_line(error)}") from error
    if not found:
        what = "matches nothing" if has_magic else f"holds no picture; looked for {' '.join(SUFFIXES)}"
        raise MisuseError(f"{url!r} {what}")
    return sorted(fs.unstrip_protocol(name) for name in found)


def _is_picture(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith(SUFFIXES) and not base.startswith(".")
