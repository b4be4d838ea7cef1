"""index.json, the manifest of an index: its store, its columns, its search method and its files.

    OUT.index/index.json      this manifest (`IndexManifest`)
    OUT.index/images.lance    the LanceDB table "images": id, vector, width, height, metadata

The index is a directory beside the store, because `embed --overwrite` replaces the store. An index whose
store has changed is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinodeploy.bundle.bundle import sha256_file
from dinodeploy.bundle.manifest import FileFacts
from dinodeploy.errors import BundleError, TamperedError
from dinodeploy.files import schema
from dinodeploy.search.filters import Kind
from dinodeploy.store.manifest import FILE_NAME as STORE_FILE
from dinodeploy.store.manifest import read_manifest

FILE_NAME = "index.json"
TABLE = "images"
VERSION = 1

# Opening an index up to this size verifies the hashes of its files, beyond it only their sizes: hashing takes
# about one second per GiB.
HASHED_BYTES = 1 << 30


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
    files: dict[str, FileFacts]


def index_path(store: str | Path) -> Path:
    """The directory of a store's index, beside the store."""
    path = Path(store).resolve()
    return path.with_name(f"{path.name}.index")


def store_hash(store: Path) -> str:
    """Identity of a store: the sha256 of its embeddings.json. Raises BundleError if there is no store."""
    read_manifest(store)
    return sha256_file(store / STORE_FILE)


def read_index_manifest(store: Path) -> IndexManifest:
    """The verified manifest of a store's index. Raises BundleError without one, TamperedError if changed."""
    found = store_hash(store)
    root = index_path(store)
    if not (root / FILE_NAME).is_file():
        raise BundleError(f"{store} has no index ({root} is missing); make one: dinodeploy index {store}")
    manifest = schema.read(IndexManifest, root / FILE_NAME, "store")
    if manifest.version != VERSION:
        raise BundleError(
            f"{root / FILE_NAME}: got version {manifest.version}, wanted {VERSION}; "
            f"index again: dinodeploy index {store} --overwrite"
        )
    if manifest.store_sha256 != found:
        raise TamperedError(
            f"{store} has changed since it was indexed; index it again: dinodeploy index {store} --overwrite"
        )
    _verify(root, manifest, f"dinodeploy index {store} --overwrite")
    return manifest


def _verify(root: Path, manifest: IndexManifest, again: str) -> None:
    small = sum(facts.bytes for facts in manifest.files.values()) <= HASHED_BYTES
    for name, facts in manifest.files.items():
        path = root / name
        if not path.is_file() or path.stat().st_size != facts.bytes:
            raise BundleError(f"{path} is missing or truncated; index again: {again}")
        if small and (found := sha256_file(path)) != facts.sha256:
            raise TamperedError(
                f"{path} is not the file that was written: got sha256 {found[:12]}, wanted "
                f"{facts.sha256[:12]}; index again: {again}"
            )
