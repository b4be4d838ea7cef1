"""index.json, the manifest of an index: its store, its columns, its search method and its files.

    OUT.index/index.json      this manifest (`IndexManifest`)
    OUT.index/images.lance    the LanceDB table "images": id, vector, width, height, metadata

The index is a directory beside the store, because `embed --overwrite` replaces the store. An index whose
store has changed is refused, and so is one that another program has written to: every file in the directory
must be listed in index.json. Lance keeps states of a table as numbered versions; the listed one is opened.

Opening compares the size of every file with index.json, and the hash of those that are small, whose time of
change differs, or that belong to an index of at most 1 GiB. `--verify` compares all hashes: about one second
per GiB.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dinodeploy.bundle.bundle import sha256_file
from dinodeploy.errors import BundleError, MisuseError, TamperedError
from dinodeploy.files import schema
from dinodeploy.files.system_files import is_system_file
from dinodeploy.search.filters import Kind
from dinodeploy.store.manifest import FILE_NAME as STORE_FILE
from dinodeploy.store.manifest import read_manifest

FILE_NAME = "index.json"
TABLE = "images"
OWN_COLUMNS: dict[str, Kind] = {"id": "text", "width": "integer", "height": "integer"}  # of every index
VERSION = 2
_READABLE = (1, 2)  # version 1 had neither `table_version` nor times of change
HASHED_BYTES = 1 << 30  # of an index whose files are all hashed when it is opened
_MOST_REFINED = 1000
_SMALL = 1 << 20  # bytes of a file that is always hashed: Lance's own manifests are


@dataclass(frozen=True)
class IndexFile:
    """One file. modified: its time of change in nanoseconds; a copy may have another one."""

    sha256: str
    bytes: int
    modified: int | None = None


@dataclass(frozen=True)
class Approximate:
    """An IVF-PQ index: vectors in `partitions`, each split into `sub_vectors` of 8 bits.

    A search probes `nprobes` partitions and computes `refine` times k candidates exactly. recall: recall@10,
    measured during the build.
    """

    partitions: int
    sub_vectors: int
    nprobes: int
    refine: int
    recall: float

    def __post_init__(self) -> None:
        least = min(self.partitions, self.sub_vectors, self.nprobes, self.refine)
        if least < 1 or self.nprobes > self.partitions or self.refine > _MOST_REFINED:
            raise MisuseError(
                f"got {self.nprobes} of {self.partitions} partitions, {self.sub_vectors} sub-vectors, refine "
                f"{self.refine}; wanted numbers that `index` writes"
            )


@dataclass(frozen=True)
class MetadataFacts:
    """matched: images with a row in `file`. unmatched: rows without an image. left_out: unusable columns.

    notes: what a reader might not expect of separator and types.
    """

    file: str
    matched: int
    unmatched: int
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class IndexManifest:
    """Root of index.json. columns: columns for filters. left_out: images with a zero vector.

    approximate: None if every search is exact. engine: the bundle that embeds query images.
    files: every file beside index.json. table_version: the Lance version of the table.
    """

    version: int
    store_sha256: str  # of embeddings.json, which contains the hash of every file
    fingerprint: dict[str, Any]
    output: str
    dim: int
    rows: int
    left_out: int
    columns: dict[str, Kind]
    metadata: MetadataFacts | None
    approximate: Approximate | None
    engine: str | None
    files: dict[str, IndexFile] = field(default_factory=dict)
    table_version: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.dim, self.rows, self.table_version or 1, self.left_out + 1)
        if not all(1 <= number < 1 << 40 for number in numbers):
            raise MisuseError("got a number of rows, dimensions or versions that `index` never writes")
        if any(self.columns.get(name) != kind for name, kind in OWN_COLUMNS.items()):
            raise MisuseError(f"columns: got {', '.join(self.columns)}, wanted {', '.join(OWN_COLUMNS)} too")


def index_path(store: str | Path) -> Path:
    """The directory of a store's index, beside the store."""
    path = Path(store).resolve()
    return path.with_name(f"{path.name}.index")


def store_hash(store: Path) -> str:
    """Identity of a store: the sha256 of its embeddings.json. Raises BundleError if there is no store."""
    read_manifest(store)
    return sha256_file(store / STORE_FILE)


def write_index_manifest(root: Path, manifest: IndexManifest) -> IndexManifest:
    """Write index.json for the files that are in the directory `root` now; returns what was written."""
    files = {
        name: IndexFile(sha256_file(root / name), status.st_size, status.st_mtime_ns)
        for name, status in sorted(_files_in(root).items())
    }
    manifest = replace(manifest, files=files)
    text = json.dumps(schema.dump(manifest), indent=2, ensure_ascii=False) + "\n"
    (root / FILE_NAME).write_text(text, encoding="utf-8", newline="\n")
    return manifest


def read_index_manifest(store: Path, *, verify: bool = False) -> IndexManifest:
    """The manifest of a store's index, whose files are compared with it; verify: all hashes.

    Raises BundleError without an index, TamperedError if the store or the index has changed.
    """
    found = store_hash(store)
    embedded = read_manifest(store)
    manifest = read_any_state(store, verify=verify)
    if manifest.store_sha256 == found and manifest.fingerprint != embedded.fingerprint:
        raise TamperedError(
            f"{index_path(store) / FILE_NAME} names another engine than {store}; index again: "
            f"dinodeploy index {store} --overwrite"
        )
    if manifest.store_sha256 != found:
        raise TamperedError(
            f"{store} has changed since it was indexed; index it again: dinodeploy index {store} --update, "
            "or --overwrite after a change of model"
        )
    return manifest


def read_any_state(store: Path, *, verify: bool) -> IndexManifest:
    """As `read_index_manifest`, also for an index of an earlier state of the store."""
    root = index_path(store)
    again = f"dinodeploy index {store} --overwrite"
    if not (root / FILE_NAME).is_file():
        raise BundleError(f"{store} has no index ({root} is missing); make one: dinodeploy index {store}")
    manifest = schema.read(IndexManifest, root / FILE_NAME, "store")
    if manifest.version not in _READABLE:
        raise BundleError(
            f"{root / FILE_NAME}: got version {manifest.version}, wanted {VERSION}; index again: {again}"
        )
    _verify(root, manifest, again, verify=verify)
    return manifest


def _verify(root: Path, manifest: IndexManifest, again: str, *, verify: bool) -> None:
    present = _files_in(root)
    if foreign := sorted(present.keys() - manifest.files.keys()):
        raise TamperedError(
            f"{root / foreign[0]} is not listed in {FILE_NAME}: another program has written to the index; "
            f"index again: {again}"
        )
    everything = verify or sum(facts.bytes for facts in manifest.files.values()) <= HASHED_BYTES
    for name, facts in manifest.files.items():
        path, status = root / name, present.get(name)
        if status is None or status.st_size != facts.bytes:
            raise BundleError(f"{path} is missing or truncated; index again: {again}")
        moved = facts.modified not in (None, status.st_mtime_ns)
        if not (everything or moved or facts.bytes <= _SMALL):
            continue
        if (found := sha256_file(path)) != facts.sha256:
            raise TamperedError(
                f"{path} is not the file that was written: got sha256 {found[:12]}, wanted "
                f"{facts.sha256[:12]}; index again: {again}"
            )


def _files_in(root: Path) -> dict[str, os.stat_result]:
    """Every file of an index but index.json, by its path with slashes; links are not followed.

    Raises TamperedError for a link or a device: the index that we write has none.
    """
    found = {}
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                path = Path(entry.path)
                if is_system_file(entry.name):  # Lance opens none
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(path)
                elif not stat.S_ISREG(status.st_mode):
                    raise TamperedError(f"{path} is a link or a device; an index has only files")
                elif path != root / FILE_NAME:
                    found[path.relative_to(root).as_posix()] = path.stat(follow_symlinks=False)
    return found
