"""A bundle as one file, and back: a plain zip, nothing compressed, the same bytes for the same bundle.

Unpacking trusts nothing. Names are plain file names, each once, whatever the case; sizes are those of the
manifest, so no entry is larger than it says; every hash is checked; and only then the directory appears.
"""

from __future__ import annotations

import errno
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.bundle.manifest import LICENCE_FILE, PLAIN_NAME, RECEIPTS_FILE, SIGNATURE_FILE
from dinodeploy.errors import BundleError, MisuseError, OutputExistsError, reason_of
from dinodeploy.files import atomic

# Beside the files that the manifest lists, and how large they may be at most.
EXTRAS = {
    manifests.FILE_NAME: 1 << 24,
    RECEIPTS_FILE: 1 << 24,
    SIGNATURE_FILE: 1 << 24,
    LICENCE_FILE: 1 << 20,
}
_DATE = (1980, 1, 1, 0, 0, 0)
CHUNK = 1 << 22
_ENCRYPTED = 0x1
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
    present = [name for name in EXTRAS if (bundle.root / name).is_file()]
    for name in sorted({*bundle.manifest.files, *present}):
        path = bundle.root / name
        entry = _entry(prefix + name)
        entry.file_size = path.stat().st_size  # zip64 is chosen by it
        with path.open("rb") as source, archive.open(entry, "w") as target:
            shutil.copyfileobj(source, target, CHUNK)


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
        with _opened(archive) as file:
            entries = _plain_entries(file, archive, prefix)
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
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose every fault is a BundleError."""
    try:
        with zipfile.ZipFile(path) as file:
            yield file
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
        seen.add(name.casefold())
        entries[name] = info
    if manifests.FILE_NAME not in entries:
        raise BundleError(
            f"{path} holds no {manifests.FILE_NAME}; wanted what `dinodeploy bundle pack` wrote"
        )
    return entries


def _problem(info: zipfile.ZipInfo, name: str, seen: set[str]) -> str:
    """What keeps an entry from being unpacked, or nothing."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if not PLAIN_NAME.fullmatch(name) or info.orig_filename != info.filename:
        return "is no plain file name"
    if name.casefold() in seen:
        return "is there twice"
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        return "is no regular file"
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        return "is compressed"
    return "is encrypted" if info.flag_bits & _ENCRYPTED else ""


def _extract(
    file: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str, folder: Path, limit: int
) -> None:
    """One entry, never more bytes than the limit."""
    if entries[name].file_size > limit:
        raise BundleError(f"entry {name!r} has {entries[name].file_size:,} bytes, wanted at most {limit:,}")
    with file.open(entries[name]) as source, (folder / name).open("xb") as target:
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
