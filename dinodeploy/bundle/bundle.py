"""A bundle on disk: find it, and hold its files against its manifest before anything reads them.

    BUNDLE/manifest.json        what it is (`manifest.py`)
    BUNDLE/model.onnx           the graph (+ model.onnx.data past 2 GB); GPUs run it as it is
    BUNDLE/model.cls.onnx       the same graph over the same weights, for CLS alone
    BUNDLE/*.plan               engines built of it by `dinodeploy build`
    BUNDLE/golden.safetensors   real photographs and the fp32 reference's outputs (`golden.py`)
    BUNDLE/parity.json          receipts of the judge (`receipts.py`); grows, so it is in no manifest

An engine is code to whatever loads it, so nothing is handed to a runtime before its hash matches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.manifest import TAIL_OUTPUTS, TAILS, EngineFacts, FileFacts, Manifest
from dinodeploy.errors import BundleError, MisuseError, TamperedError

MODEL_FILE = "model.onnx"
GOLDEN_FILE = "golden.safetensors"
GRAPH_BACKEND = "onnxruntime_cuda"  # what runs model.onnx where the manifest has another graph for CPUs
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Bundle:
    """A bundle and the one of its engines that was asked for."""

    root: Path
    manifest: Manifest
    engine: str  # file name
    named: bool = False  # it was asked for by its name, and not only the bundle
    backend: str | None = None  # what runs it, where that is not what the manifest says (`devices.py`)

    @property
    def engine_facts(self) -> EngineFacts:
        """The manifest's entry; for the graph as another backend runs it, which has none, what it would be.

        A tail's is that of the engine whose numbers it gives, with one file more.
        """
        whole = TAILS.get(self.engine, self.engine)
        if self.backend is not None or whole not in self.manifest.engines:
            facts = EngineFacts(self.backend or GRAPH_BACKEND, graph_files(self.manifest))
        else:
            facts = self.manifest.engines[whole]
        return facts if whole == self.engine else replace(facts, files=(self.engine, *facts.files))

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the engine puts out."""
        if self.engine in TAILS:
            return TAIL_OUTPUTS
        return tuple(output.name for output in self.manifest.outputs)

    @property
    def needed_files(self) -> tuple[str, ...]:
        """What is read when the engine is opened and judged."""
        build = self.engine_facts.build
        weights = graph_files(self.manifest) if build is not None and build.stripped else ()
        return tuple(dict.fromkeys((*self.engine_facts.files, *weights, GOLDEN_FILE)))

    @property
    def engine_path(self) -> Path:
        return self.root / self.engine

    def verify(self, names: Iterable[str] | None = None) -> None:
        """Hash the named files (default: all). Raises BundleError or TamperedError."""
        for name in self.manifest.files if names is None else names:
            verify_file(self.root / name, self.manifest.files[name])


def open_bundle(path: str | Path) -> Bundle:
    """The bundle at `path`: its directory, or an engine file inside it. Reads the manifest only.

    Raises MisuseError for a path that is not there, BundleError for what is no bundle.
    """
    path = Path(path)
    if not path.exists():
        raise MisuseError(
            f"{path}: no such bundle; make one: dinodeploy export --arch vit_small --out {path}"
        )
    root = path if path.is_dir() else path.parent
    if not (root / manifests.FILE_NAME).is_file():
        raise BundleError(
            f"{path} is in no bundle: {root / manifests.FILE_NAME} is missing; make one: dinodeploy export"
        )
    manifest = manifests.read_manifest(root)
    engine = next(iter(manifest.engines), MODEL_FILE) if path.is_dir() else path.name
    others = {*graph_files(manifest)[:1], *tails(manifest)}
    if engine not in manifest.engines and engine not in others:
        known = ", ".join(manifest.engines) or "none"
        raise BundleError(f"{root} has no engine {engine!r}; its engines: {known}")
    return Bundle(root, manifest, engine, named=not path.is_dir())


def graph_files(manifest: Manifest) -> tuple[str, ...]:
    """The typed graph and its weights: what plans are built from and ONNX Runtime's GPU providers run."""
    return tuple(name for name in (MODEL_FILE, f"{MODEL_FILE}.data") if name in manifest.files)


def tails(manifest: Manifest) -> tuple[str, ...]:
    """The graphs for CLS alone that this bundle has."""
    return tuple(name for name in TAILS if name in manifest.files)


def verify_file(path: Path, facts: FileFacts) -> None:
    """Raises BundleError when `path` is missing, TamperedError when it is not what `facts` say."""
    if not path.is_file():
        raise BundleError(f"{path} is missing; the bundle is incomplete, copy or export it again")
    size = path.stat().st_size
    if size != facts.bytes:
        raise TamperedError(
            f"{path} has {size:,} bytes, the manifest says {facts.bytes:,}; copy or export it again"
        )
    found = sha256_file(path)
    if found != facts.sha256:
        raise TamperedError(
            f"{path} is not the file that was exported: sha256 {found[:12]}…, "
            f"the manifest says {facts.sha256[:12]}…; copy or export it again"
        )


def file_facts(path: Path) -> FileFacts:
    """Hash and size of a file, for a manifest."""
    return FileFacts(sha256=sha256_file(path), bytes=path.stat().st_size)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
