"""Files here or behind a URL, as bytes by range: what archives and tables are read through.

A URL is whatever fsspec knows: s3://, gs://, https://, memory://, hf:// and more. Attempts are repeated
where another could do better; what is missing or forbidden is said at once.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dinodeploy.errors import ImageError, MisuseError, UnavailableError, first_line

T = TypeVar("T")

PAUSES = (0.5, 2.0, 8.0)  # seconds before each further attempt
_URL = re.compile(r"[a-z][a-z0-9+.-]+(?:::[a-z][a-z0-9+.-]+)*://", re.IGNORECASE)
_NETWORK = ("aiohttp", "botocore", "aiobotocore", "asyncio", "requests", "httpx", "httpcore", "google",
            "gcsfs", "azure", "adlfs", "huggingface_hub", "fsspec")  # fmt: skip
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


class Storage(Protocol):
    """One file. `read` may be called from several threads at once."""

    name: str
    size: int

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop). Raises OSError."""
        ...

    def close(self) -> None: ...


class LocalFile:
    """A file of this machine, by pread."""

    def __init__(self, path: Path) -> None:
        self.name = path.as_posix()
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, stop: int) -> bytes:
        parts = []
        while start < stop:
            part = os.pread(self._descriptor, stop - start, start)
            if not part:
                break
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RemoteFile:
    """A file behind a URL, by ranges."""

    def __init__(self, url: str, timeout: float) -> None:
        self.name = url
        self._fs, self._path = file_system(url, timeout)
        size = attempt(lambda: self._fs.size(self._path), url)
        if size is None:
            raise OSError(f"{url}: its server does not say how large it is")
        self.size = int(size)

    def read(self, start: int, stop: int) -> bytes:
        return bytes(attempt(lambda: self._fs.cat_file(self._path, start=start, end=stop), self.name))

    def close(self) -> None: ...


def open_storage(name: str, timeout: float) -> Storage:
    """Raises OSError for what cannot be opened, UnavailableError for a URL without fsspec."""
    return RemoteFile(name, timeout) if is_url(name) else LocalFile(Path(name))


class StorageFile:
    """A storage as a file object to seek and read in, as tarfile and pyarrow want one; one thread's.

    Reads go through one buffer, so that a walk over headers is not one request each.
    """

    def __init__(self, storage: Storage, buffer: int = 1 << 16) -> None:
        self._storage = storage
        self._buffer_size = buffer
        self._start, self._buffer = 0, b""
        self._position = 0
        self.closed = False

    def read(self, count: int | None = -1) -> bytes:
        left = self._storage.size - self._position
        count = left if count is None or count < 0 else min(count, left)
        offset = self._position - self._start
        if not 0 <= offset <= len(self._buffer) - count:
            stop = min(self._position + max(count, self._buffer_size), self._storage.size)
            self._start, self._buffer = self._position, self._storage.read(self._position, stop)
            offset = 0
        found = self._buffer[offset : offset + max(count, 0)]
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._storage.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def file_system(url: str, timeout: float) -> tuple[Any, str]:
    """fsspec's file system for `url`, and the path in it.

    Raises UnavailableError without fsspec or the package that the scheme needs, MisuseError for a scheme
    that nobody knows.
    """
    try:
        import fsspec.core
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{url!r} needs fsspec, which is not installed: pip install 'dinodeploy[remote]'"
        ) from error
    options: dict[str, Any] = {}
    if url.split("://")[0].lower() in ("http", "https"):
        import aiohttp

        options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_read=timeout)}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise UnavailableError(f"{url!r} cannot be opened: {first_line(error)}") from error
    except ValueError as error:
        raise MisuseError(f"{url!r} is no URL that can be read: {first_line(error)}") from error
    return fs, path


def attempt(step: Callable[[], T], where: str) -> T:
    """Run a step that asks a server, again where that may help. Raises OSError in the end."""
    for pause in (*PAUSES, None):
        try:
            return step()
        except _FINAL:
            raise
        except (
            OSError,
            TimeoutError,
        ) as error:  # aiohttp's and botocore's connection errors are OSErrors too
            if pause is None or _is_refusal(error):
                raise OSError(f"{where}: {first_line(error)}") from error
        except Exception as error:
            if pause is None or _is_refusal(error) or not _is_transient(error):
                raise OSError(f"{where}: {first_line(error)}") from error
        time.sleep(pause or 0)
    raise AssertionError("the last attempt returns or raises")


def fetch(url: str, timeout: float) -> bytes:
    """A whole file. Raises ImageError: the picture is then quarantined."""
    try:
        fs, path = file_system(url, timeout)
        return bytes(attempt(lambda: fs.cat_file(path), url))
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else first_line(error)
        raise ImageError(f"{url!r}: {reason.removeprefix(f'{url}: ')}") from error


def _is_refusal(error: BaseException) -> bool:
    """An answer that will not change: 4xx but for 408 and 429."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)


def _is_transient(error: BaseException) -> bool:
    """By the package it comes from: the network's, not a mistake of ours."""
    return type(error).__module__.split(".")[0] in _NETWORK
