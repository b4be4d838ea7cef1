"""index.json, the root of an index: of which store it is, what can be asked, how it is searched.

    OUT.index/index.json      this (`IndexManifest`)
    OUT.index/images.lance    the LanceDB table "images": id, vector, width, height, metadata

The index stands beside the store and not in it: a store holds its own files only, and `embed --overwrite` may
replace it. An index of a store that has changed since is refused.
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

# Up to this size an index is held against its hashes whenever it is opened, beyond it against its sizes
# alone: hashing takes about a second a GiB.
HASHED_BYTES = 1 << 30


@dataclass(frozen=True)
class Approximate:
    """An IVF-PQ index: vectors in `partitions`, each cut into `sub_vectors` of 8 bits.

    A search looks into `nprobes` partitions and computes `refine` times k candidates exactly. recall: of the
    10 nearest, measured when it was built.
    """

    partitions: int
    sub_vectors: int
    nprobes: int
    refine: int
    recall: float


@dataclass(frozen=True)
class MetadataFacts:
    """What was joined. matched: pictures with a row in `file`; unmatched: rows of it without a picture.

    left_out: columns of kinds that a filter cannot ask for.
    """

    file: str
    matched: int
    unmatched: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class IndexManifest:
    """Root of index.json. columns: what filters may ask for. left_out: pictures whose vector is zero.

    approximate: None where every search is exact. engine: the bundle that embeds what is searched for.
    """

    version: int
    store_sha256: str  # of its embeddings.json, which has the hash of every file
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
    """Where the index of a store is: beside it."""
    path = Path(store).resolve()
    return path.with_name(f"{path.name}.index")


def store_hash(store: Path) -> str:
    """What tells a store from every other: sha256 of its embeddings.json. Raises BundleError for no store."""
    read_manifest(store)
    return sha256_file(store / STORE_FILE)


def read_index_manifest(store: Path) -> IndexManifest:
    """The manifest of a store's index, once it is certain that it is of this store as it is now.

    Raises BundleError where there is none, TamperedError where store or index have changed since.
    """
    found = store_hash(store)
    root = index_path(store)
    if not (root / FILE_NAME).is_file():
        raise BundleError(f"{store} has no index ({root} is missing); make one: dinodeploy index {store}")
    manifest = schema.read(IndexManifest, root / FILE_NAME)
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
            raise BundleError(f"{path} is missing or cut off; index again: {again}")
        if small and (found := sha256_file(path)) != facts.sha256:
            raise TamperedError(
                f"{path} is not the file that was written: got sha256 {found[:12]}, wanted "
                f"{facts.sha256[:12]}; index again: {again}"
            )
