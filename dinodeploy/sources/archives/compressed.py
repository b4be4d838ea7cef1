"""Compressed archives, read forwards: .tar.gz, .tar.bz2, .tar.xz, .tar.zst.

Nothing is unpacked to disk. An archive is decompressed once to list it and once to read its images, which
are asked for nearly in order: what is passed on the way to one image is kept for the other threads. A read
that lies further back starts again at the beginning.
"""

from __future__ import annotations

import io
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from importlib import import_module
from threading import Lock
from typing import Any, BinaryIO, cast

import numpy as np

from dinodeploy.arrays import IndexArray
from dinodeploy.errors import UnavailableError, reason_of
from dinodeploy.sources.input_file import InputFile

# First bytes -> name of the compression.
KINDS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
MAX_RATIO = 1000  # unpacked over packed: more than photographs ever reach, less than archives of zeros
FREE_BYTES = 1 << 30  # which an archive may have unpacked whatever its ratio
MAX_MEMBER_BYTES = 1 << 30  # of one image, as in a zip file
CHUNK = 1 << 20  # a multiple of tar's blocks, so that going back by one block stays in the chunk
_KEPT = 32  # contents that were passed and are kept: more than there are decoding threads
_KEPT_BYTES = 256 << 20  # of them, and as much of contents that several members share


def compression_of(start: bytes) -> str:
    """The compression of a file that begins with `start`; empty for none that is known."""
    return next((kind for magic, kind in KINDS.items() if start.startswith(magic)), "")


class CompressedFile:
    """The content of a compressed file, as an `InputFile` that is read in nearly ascending order.

    last_progress: when bytes were last decompressed, by `time.monotonic`.
    """

    def __init__(self, file: InputFile, kind: str) -> None:
        self.name = file.name
        self.last_progress = 0.0
        self._file = file
        self._kind = kind
        self._starts: IndexArray = np.zeros(0, np.int64)  # of the contents that will be asked for
        self._sizes = self._starts
        self._shared: dict[int, bytes | None] = {}  # contents that are asked for more than once, by start
        self._passed: OrderedDict[int, bytes] = OrderedDict()  # contents that were passed
        self._passed_bytes = self._shared_bytes = 0
        self._stack = ExitStack()
        self._stream: _Forwards | None = None
        self._lock = Lock()

    def size(self) -> int:
        """Of the compressed file."""
        return self._file.size()

    def mtime_ns(self) -> int | None:
        return self._file.mtime_ns()

    def beside(self, path: str) -> str:
        return self._file.beside(path)

    def open(self) -> BinaryIO:
        return cast(BinaryIO, _Forwards(self._file, self._kind, self._moved))

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Announce what will be read, as pairs (start, size), so that it is kept where it is passed."""
        pairs = np.array(sorted(one for one in ranges if one[1] <= MAX_MEMBER_BYTES), np.int64).reshape(-1, 2)
        starts, first, count = np.unique(pairs[:, 0], return_index=True, return_counts=True)
        self._starts, self._sizes = starts, pairs[first, 1]
        self._shared = dict.fromkeys(starts[count > 1].tolist())

    def read(self, start: int, size: int) -> bytes:
        if size > MAX_MEMBER_BYTES:
            raise OSError(f"{size} bytes unpacked, wanted at most {MAX_MEMBER_BYTES}")
        with self._lock:
            kept = self._shared.get(start) or self._take_passed(start)
            if kept is not None and len(kept) == size:
                return kept
            try:
                return self._read(start, size)
            except Exception as error:
                self._stack.close()
                self._stream = None
                raise OSError(reason_of(error)) from error

    def _read(self, start: int, size: int) -> bytes:
        if self._stream is None:
            self._stream = self._stack.enter_context(_Forwards(self._file, self._kind, self._moved))
        at = self._stream.tell() if self._stream.tell() <= start else 0
        first, here = np.searchsorted(self._starts, [at, start]).tolist()
        for place in range(first, here):
            begin, length = int(self._starts[place]), int(self._sizes[place])
            if (place >= here - _KEPT or begin in self._shared) and begin + length <= start:
                self._keep(begin, self._exactly(begin, length))
        data = self._exactly(start, size)
        if start in self._shared:
            self._keep(start, data)
        return data

    def _exactly(self, start: int, size: int) -> bytes:
        assert self._stream is not None, "opened"
        self._stream.seek(start)
        data = self._stream.read(size)
        if len(data) != size:
            raise OSError(f"got {len(data)} bytes at byte {start}, wanted {size}: the file has changed")
        return data

    def _keep(self, start: int, data: bytes) -> None:
        if start in self._shared:
            if self._shared[start] is None and self._shared_bytes + len(data) <= _KEPT_BYTES:
                self._shared[start] = data
                self._shared_bytes += len(data)
            return
        self._take_passed(start)
        self._passed[start] = data
        self._passed_bytes += len(data)
        while len(self._passed) > _KEPT or self._passed_bytes > _KEPT_BYTES:
            self._take_passed(next(iter(self._passed)))

    def _take_passed(self, start: int) -> bytes | None:
        data = self._passed.pop(start, None)
        self._passed_bytes -= len(data or b"")
        return data

    def _moved(self) -> None:
        self.last_progress = time.monotonic()

    @property
    def is_open(self) -> bool:
        return self._stream is not None

    def release(self) -> None:
        """Close the file; the next read starts at its beginning."""
        with self._lock:
            self._stack.close()
            self._stream = None


class _Forwards(io.RawIOBase):
    """A seekable stream over a decompressor: forwards it skips, backwards it starts again.

    moved: called after each chunk. Raises OSError for damage and for what unpacks to far too much.
    """

    def __init__(self, file: InputFile, kind: str, moved: Callable[[], None]) -> None:
        self._file = file
        self._open = _OPENERS[kind]
        self._moved = moved
        self._most = max(FREE_BYTES, MAX_RATIO * file.size())
        self._stack = ExitStack()
        self._start()

    def _start(self) -> None:
        self._stack.close()
        packed = self._stack.enter_context(self._file.open())
        self._packed = self._stack.enter_context(self._open(packed))
        self._chunk, self._begin, self._at = b"", 0, 0
        self._damage: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end of a compressed file is not known")
        if offset < self._begin:
            self._start()
        while offset > self._begin + len(self._chunk) and self._next():
            pass
        self._at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        end = self._begin + len(self._chunk)
        if self._at > end or (self._at == end and not self._next()):
            return 0
        here = self._at - self._begin
        data = self._chunk[here : here + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """Exactly `size` bytes, fewer at the end."""
        parts, left = [], size if size is not None and size >= 0 else -1
        while left and (data := super().read(min(left, CHUNK) if left > 0 else CHUNK)):
            parts.append(data)
            left -= len(data) if left > 0 else 0
        return b"".join(parts)

    def _next(self) -> bool:
        """Decompress the next chunk; False at the end. What comes before damage is still given out."""
        if self._damage is not None:
            raise self._damage
        parts, left = [], CHUNK
        try:
            while left and (data := self._packed.read1(left)):
                parts.append(data)
                left -= len(data)
        except Exception as error:  # each decompressor has an error of its own
            self._damage = OSError(reason_of(error))
            if not parts:
                raise self._damage from error
        if not parts:
            return False
        self._begin += len(self._chunk)
        self._chunk = b"".join(parts)
        if self._begin + len(self._chunk) > self._most:
            raise OSError(f"it unpacks to more than {MAX_RATIO} times its size")
        self._moved()
        return True

    def close(self) -> None:
        if not self.closed:
            self._stack.close()
        super().close()


def _gzip(packed: BinaryIO) -> Any:
    import gzip

    return gzip.GzipFile(fileobj=packed)


def _bzip2(packed: BinaryIO) -> Any:
    import bz2

    return bz2.BZ2File(packed)


def _xz(packed: BinaryIO) -> Any:
    import lzma

    return lzma.LZMAFile(packed)


def _zstd(packed: BinaryIO) -> Any:
    try:
        return import_module("compression.zstd").ZstdFile(packed)  # Python 3.14
    except ModuleNotFoundError:
        pass
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "archives compressed with zstd need Python 3.14 or pyarrow; pip install 'dinodeploy[parquet]'"
        ) from error
    return _SmallReads(pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, "r"), "zstd"))


class _SmallReads:
    """A stream of pyarrow: a read that meets damage gives nothing, so little is asked for at a time."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read1(self, size: int) -> bytes:
        return bytes(self._stream.read(min(size, 4096)))

    def __enter__(self) -> _SmallReads:
        return self

    def __exit__(self, *details: object) -> None:
        self._stream.close()


_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _zstd,
}  # fmt: skip
