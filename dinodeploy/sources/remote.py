"""Remote files through fsspec: s3://, gs://, https://, memory://, zip://…::…

A URL is a file, a folder or a glob, like a path; ids are URLs. Temporary failures are retried with growing
pauses until the timeout; a missing file is not. Needs the extra `remote`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

from dinodeploy.errors import ImageError, MisuseError, UnavailableError, reason_of
from dinodeploy.sources.folders import is_wanted_member
from dinodeploy.sources.input_file import buffered

T = TypeVar("T")

FIRST_PAUSE = 0.25  # seconds before the first retry; each later pause is twice as long

_URL = re.compile(r"([a-z]+::)*[A-Za-z][A-Za-z0-9+.-]+://")
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_TEMPORARY = (OSError, TimeoutError, EOFError)
_NETWORKS = ("asyncio", "aiohttp", "botocore", "urllib3", "requests", "httpx", "gcsfs", "azure")
_TEMPORARY_STATUS = (408, 425, 429)  # of 400 to 499: request timeout, too early, too many requests


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


class RemoteFile:
    """A file behind a URL, read in byte ranges."""

    def __init__(self, url: str, timeout: float) -> None:
        self.name = url
        self._fs, self._path = _file_system(url)
        self._timeout = timeout
        self._size: int | None = None

    def size(self) -> int:
        if self._size is None:
            limits = _limits(self._fs, self._timeout)
            size = _retry(lambda: self._fs.size(self._path, **limits), self._timeout)
            if size is None:
                raise OSError("the server gives no size, so it cannot be read in parts; download it first")
            self._size = int(size)
        return self._size

    def mtime_ns(self) -> int | None:
        return None

    def read(self, start: int, size: int) -> bytes:
        limits = _limits(self._fs, self._timeout)

        def ask() -> bytes:
            data: bytes = self._fs.cat_file(self._path, start=start, end=start + size, **limits)
            if len(data) == self.size() > size:  # a server without byte ranges sends the whole file
                data = data[start : start + size]
            if len(data) != size:
                raise EOFError(f"got {len(data)} bytes at byte {start}, wanted {size}")
            return data

        try:
            return _retry(ask, self._timeout)
        except EOFError as error:
            raise OSError(str(error)) from error

    def open(self) -> BinaryIO:
        return buffered(self)

    def beside(self, path: str) -> str:
        folder, slash, _ = self.name.partition("::")[0].rpartition("/")
        rest = self.name.partition("::")[2]
        joined = path if path.startswith("/") else folder + slash + path
        return f"{joined}::{rest}" if rest else joined


def fetch(url: str, timeout: float) -> bytes:
    """The whole file behind a URL. Raises ImageError."""
    try:
        fs, path = _file_system(url)
        return _retry(lambda: bytes(fs.cat_file(path, **_limits(fs, timeout))), timeout)
    except (OSError, MisuseError) as error:
        raise ImageError(f"{url!r}: cannot be fetched: {_reason(error)}") from error


def require(url: str, known: set[str]) -> str:
    """Return `url` after checking that fsspec supports its scheme. `known` collects the checked schemes."""
    scheme = url[: url.index(":")]
    if scheme not in known:
        _file_system(url)
        known.add(scheme)
    return url


def find(url: str, *, recursive: bool, timeout: float) -> Iterator[str]:
    """URLs of the files that `url` names: itself, the matches of a glob, or the images in a folder.

    Raises MisuseError where nothing is found, UnavailableError where a package is missing.
    """
    fs, path = _file_system(url)

    def ask(question: Callable[..., T], *arguments: Any, **options: Any) -> T:
        try:
            return _retry(lambda: question(*arguments, **options), timeout)
        except OSError as error:
            raise MisuseError(f"{url!r} cannot be listed: {_reason(error)}") from error

    limits = _limits(fs, timeout)
    matches = sorted(ask(fs.glob, path, **limits)) if _is_glob(url) else [path]
    if not matches:
        raise MisuseError(f"{url!r} matches nothing; wanted files, folders or globs of images")
    for match in matches:
        if ask(_is_folder, fs, match, url, limits):
            found = ask(fs.find, match, maxdepth=None if recursive else 1, **limits)
            yield from (_url(fs, name, url) for name in sorted(found) if _is_wanted(name, match))
        else:
            yield _url(fs, match, url)


def _url(fs: Any, path: str, beside: str) -> str:
    """The URL of a path in the file system of the URL `beside`."""
    _, chained, rest = beside.partition("::")
    return f"{fs.unstrip_protocol(path)}{chained}{rest}"


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{url!r} needs fsspec, which is missing; pip install 'dinodeploy[remote]'"
        ) from error
    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        raise UnavailableError(f"{url!r} needs a package that is missing: {reason_of(error)}") from error
    except (ValueError, OSError) as error:
        raise MisuseError(f"{url!r} cannot be reached: {_reason(error)}") from error
    return fs, str(path)


def _limits(fs: Any, timeout: float) -> dict[str, float]:
    """The timeout argument of fsspec calls: only asynchronous file systems take one."""
    return {"timeout": timeout} if getattr(fs, "async_impl", False) else {}


def _retry(question: Callable[[], T], timeout: float) -> T:
    """Call `question` until it succeeds, fails permanently or the time is over. Raises OSError."""
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        try:
            return question()
        except Exception as error:
            if not _is_temporary(error) or time.monotonic() + pause > deadline:
                raise error if isinstance(error, (OSError, EOFError)) else OSError(_reason(error)) from error
        time.sleep(pause)
        pause *= 2


def _is_temporary(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(error, _PERMANENT) or (
        isinstance(status, int) and 400 <= status < 500 and status not in _TEMPORARY_STATUS
    ):
        return False
    return isinstance(error, _TEMPORARY) or type(error).__module__.partition(".")[0] in _NETWORKS


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "not found"
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"the server answers {status}"
    return f"{type(error).__name__}: {reason_of(error)}"[:200]


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _is_glob(url: str) -> bool:
    """Whether a URL has wildcards; in a web address a question mark starts the query."""
    return any(sign in url.partition("::")[0] for sign in ("*[" if _is_web(url) else "*?["))


def _is_folder(fs: Any, path: str, url: str, limits: dict[str, float]) -> bool:
    """Whether a path is a folder; on the web, one that ends with a slash. Raises FileNotFoundError."""
    if _is_web(url):
        return url.endswith("/")
    return path in ("", "/") or fs.info(path, **limits)["type"] == "directory"


def _is_wanted(name: str, folder: str) -> bool:
    return is_wanted_member(name.removeprefix(folder))
