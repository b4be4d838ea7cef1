"""A bundle as one file, and back: a plain zip, nothing compressed, the same bytes for the same bundle.

Unpacking trusts nothing. Names are plain file names, each once, whatever the case; the entries follow one
another without a gap or an overlap, so what is unpacked is never larger than the archive; sizes are those of
the manifest; every hash is checked; and only then the directory appears.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.bundle.manifest import EXTRAS, PLAIN_NAME, SIGNATURE_FILE
from dinodeploy.bundle.signing import signed_digests
from dinodeploy.errors import BundleError, MisuseError, OutputExistsError, reason_of
from dinodeploy.files import atomic
from dinodeploy.files.names import folded
from dinodeploy.files.regular import create_file, open_regular, read_regular

_DATE = (1980, 1, 1, 0, 0, 0)
CHUNK = 1 << 22
_UTF8_NAME = 0x800  # the one flag an entry may have; others: encrypted, sizes after the data
_DOS_NO_FILE = 0x18  # a folder, the name of a disk
_SPECIAL_BITS = 0o7000
LARGEST_DIRECTORY = 1 << 22  # bytes: 50 times that of a bundle with its runtime
# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7, 4.3.16, 4.3.14 and 4.3.15
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = 20
_IN_ZIP64 = 0xFFFFFFFF
# What zipfile raises on a damaged file, beside OSError for places before its beginning.
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
)


def pack(bundle: Path | Bundle, target: Path, *, overwrite: bool = False) -> Path:
    """A bundle as one zip file. Its files are verified first.

    Raises BundleError or TamperedError for a bundle that is not whole, OutputExistsError.
    """
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    bundle.verify()
    if target.exists() and not (overwrite and target.is_file()):
        raise OutputExistsError(f"{target} exists; pass --overwrite, or choose another --out")
    with atomic.atomic_file(target) as file, zipfile.ZipFile(file, "w") as archive:
        add_bundle(archive, bundle)
    return target


def add_bundle(archive: zipfile.ZipFile, bundle: Bundle, prefix: str = "") -> None:
    """Every file of a bundle, its receipts, signature and licence, under `prefix`."""
    for name in members(bundle):
        entry = _entry(prefix + name)
        with open_regular(bundle.root / name) as source:
            entry.file_size = os.fstat(source.fileno()).st_size  # zip64 is chosen by it
            with archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, CHUNK)


def members(bundle: Bundle) -> list[str]:
    """Names of everything that travels with a bundle. Raises BundleError as `_require_whole`."""
    present = [name for name in EXTRAS if (bundle.root / name).is_file()]
    names = {*bundle.manifest.files, *present}
    _require_whole(bundle, names)
    return sorted(names)


def _require_whole(bundle: Bundle, names: Collection[str]) -> None:
    """Raise BundleError for a signed bundle that would not arrive as it was signed."""
    if SIGNATURE_FILE not in names:
        return
    content = read_regular(bundle.root / SIGNATURE_FILE)
    if missing := sorted(set(signed_digests(content, bundle.root)) - set(names)):
        raise BundleError(
            f"{bundle.named} is signed with {missing[0]!r}, which is no file of a bundle and is not packed; "
            "move it elsewhere and sign again"
        )


def unpack(
    archive: Path,
    out: Path,
    *,
    overwrite: bool = False,
    prefix: str = "",
    accept: Callable[[Path], None] = lambda root: None,
) -> Path:
    """The bundle in a zip file, as the directory `out`; whole and verified, or not at all.

    `accept` sees the directory before it appears, and raises what keeps it away. Raises BundleError or
    TamperedError for an archive that is not what `pack` writes, OutputExistsError.
    """
    if not archive.is_file():
        raise MisuseError(f"{archive}: no such file; wanted what `dinodeploy bundle pack` wrote")
    if out.exists() and (not overwrite or not (out / manifests.FILE_NAME).is_file()):
        raise OutputExistsError(
            f"{out} exists; pass --overwrite to replace a bundle, or choose another --out"
        )
    with atomic.atomic_directory(out.resolve()) as partial:
        with _opened(archive) as (source, file):
            entries = _plain_entries(file, archive, prefix)
            _require_tiled(source, file.infolist(), archive, anywhere=bool(prefix))
            _extract(file, entries, manifests.FILE_NAME, partial, EXTRAS[manifests.FILE_NAME])
            manifest = manifests.read_manifest(partial)
            limits = EXTRAS | {name: facts.bytes for name, facts in manifest.files.items()}
            if strangers := sorted(set(entries) - set(limits)):
                raise BundleError(f"{archive} holds {strangers[0]!r}, which the manifest does not list")
            for name in sorted(set(entries) - {manifests.FILE_NAME}):
                _extract(file, entries, name, partial, limits[name])
        Bundle(partial, manifest).verify()
        accept(partial)
    return out


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, zipfile.ZipFile]]:
    """A zip file, raw and parsed, whose every fault is a BundleError."""
    try:
        with open_regular(path) as source:
            _directory_start(source, path)
            with zipfile.ZipFile(source) as file:
                yield source, file
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # a disk, and not a place in the file that cannot be
        raise BundleError(
            f"{path} is no archive of a bundle: {reason_of(error)}; pack or copy it again"
        ) from error


def _plain_entries(file: zipfile.ZipFile, path: Path, prefix: str) -> dict[str, zipfile.ZipInfo]:
    """Entries by name, none of which can do anything but become a file. Raises BundleError."""
    entries: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in file.infolist():
        if prefix and not info.filename.startswith(prefix):
            continue
        name = info.filename.removeprefix(prefix)
        if problem := _problem(info, name, seen):
            raise BundleError(f"{path}: entry {info.filename!r} {problem}; nothing was unpacked")
        seen.add(folded(name))
        entries[name] = info
    if manifests.FILE_NAME not in entries:
        raise BundleError(
            f"{path} holds no {manifests.FILE_NAME}; wanted what `dinodeploy bundle pack` wrote"
        )
    return entries


def _directory_start(source: BinaryIO, path: Path) -> int:
    """Where a zip file's directory begins. Raises BundleError unless the file ends with the end of it.

    What follows it, a comment too, is read by some programs as the end of another archive.
    """
    size = source.seek(0, os.SEEK_END)
    source.seek(max(0, size - _END64.size - _LOCATOR64 - _END.size))
    tail = source.read()
    end = tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(b"PK\5\6") or not end.endswith(b"\0\0"):
        raise BundleError(
            f"{path} is no archive of a bundle: it does not end as a zip file without a comment; pack or "
            "copy it again"
        )
    directory, start = _END.unpack(end)[5], size - _END.size
    if tail.startswith(b"PK\6\6"):  # zip64
        directory, start = _END64.unpack(tail[: _END64.size])[8], size - len(tail)
    if directory > min(LARGEST_DIRECTORY, start):
        raise BundleError(f"{path} is no archive of a bundle: its directory has {directory:,} bytes")
    return int(start - directory)


def _require_tiled(
    source: BinaryIO, entries: Sequence[zipfile.ZipInfo], path: Path, *, anywhere: bool
) -> None:
    """Raise BundleError unless the entries follow one another up to the directory.

    anywhere: the first may begin after something else, such as the first line of a program.
    """
    end = None if anywhere else 0
    directory = _directory_start(source, path)
    for info in sorted(entries, key=lambda info: info.header_offset):
        if end is not None and info.header_offset != end:
            what = "overlaps another" if info.header_offset < end else "begins after a gap"
            raise BundleError(f"{path}: entry {info.filename!r} {what}; nothing was unpacked")
        source.seek(info.header_offset)
        *_, packed, size, name_bytes, extra_bytes = _LOCAL.unpack(source.read(_LOCAL.size))
        for found, wanted in ((packed, info.compress_size), (size, info.file_size)):
            if found not in (wanted, _IN_ZIP64):
                raise BundleError(f"{path}: entry {info.filename!r} has two sizes; nothing was unpacked")
        end = info.header_offset + _LOCAL.size + name_bytes + extra_bytes + info.compress_size
    if end is not None and end != directory:
        raise BundleError(f"{path}: its last entry does not end where its directory begins; copy it again")


def _problem(info: zipfile.ZipInfo, name: str, seen: set[str]) -> str:
    """What keeps an entry from being unpacked, or nothing."""
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if not PLAIN_NAME.fullmatch(name) or info.orig_filename != info.filename:
        return "is no plain file name"
    if folded(name) in seen:
        return "is there twice"
    if info.is_dir() or kind not in (0, stat.S_IFREG) or info.external_attr & _DOS_NO_FILE:
        return "is no regular file"
    if mode & _SPECIAL_BITS:
        return "has special permissions"
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        return "is compressed"
    return "is encrypted" if info.flag_bits & ~_UTF8_NAME else ""


def _extract(
    file: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str, folder: Path, limit: int
) -> None:
    """One entry, never more bytes than the limit."""
    if entries[name].file_size > limit:
        raise BundleError(f"entry {name!r} has {entries[name].file_size:,} bytes, wanted at most {limit:,}")
    with file.open(entries[name]) as source, create_file(folder / name) as target:
        left = limit
        while chunk := source.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                raise BundleError(f"entry {name!r} is larger than the {limit:,} bytes it may have")
            target.write(chunk)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.create_system = 3  # Unix, on every machine: the same bytes
    return entry
