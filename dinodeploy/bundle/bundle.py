"""A bundle on disk: find it, choose an engine in it, and verify its files before anything reads them.

    BUNDLE/manifest.json        what it is (`manifest.py`)
    BUNDLE/model.onnx           the graph that GPUs run
    BUNDLE/model.cpu.onnx       the graph that CPUs run, where it differs
    BUNDLE/model.cls.onnx, …    the same graphs for the CLS output alone
    BUNDLE/model.onnx.data      the weights of all graphs (format 1: inside model.onnx, up to 2 GB)
    BUNDLE/*.plan               TensorRT engines made by `dinodeploy build`
    BUNDLE/*.cls.plan           the same for the CLS output alone
    BUNDLE/golden.safetensors   photographs and the outputs of the fp32 reference (`parity/golden.py`)
    BUNDLE/parity.json          receipts of the judge (`parity/receipts.py`); grows, so the manifest omits it

An engine is code to the runtime that loads it, so no file reaches a runtime before its hash matches. Where
the bundle is on the Hugging Face hub, a file is fetched when it is first verified (`hub/files.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.external_data import check_external_data
from dinodeploy.bundle.manifest import EngineFacts, FileFacts, Manifest
from dinodeploy.bundle.text_facts import TEXT_GOLDEN_FILE
from dinodeploy.errors import BundleError, MisuseError, TamperedError
from dinodeploy.files.regular import open_regular
from dinodeploy.files.unfinished.exchange import restore
from dinodeploy.images.preprocess import Preprocess

if TYPE_CHECKING:
    from dinodeploy.bundle.signing import SignedCopy
    from dinodeploy.hub.files import HubFiles

GOLDEN_FILE = "golden.safetensors"
_CHUNK = 1 << 22


class JudgeReceipt(Protocol):
    """What a bundle tells of its receipt; the class is `Receipt` of `parity/receipts.py`."""

    @property
    def passed(self) -> bool: ...
    @property
    def recipe(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def measurements(self) -> tuple[Any, ...]: ...


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk."""

    root: Path
    manifest: Manifest
    receipt: JudgeReceipt | None = None  # the judge's receipt, where an export has just made this bundle
    notes: tuple[str, ...] = ()  # of that export: what it assumed, and what it could not do
    signed: SignedCopy | None = None  # where a signature was required: `root` is this private copy
    hub: HubFiles | None = None  # where it is on the hub: `root` gets the files that were verified

    @property
    def home(self) -> Path:
        """The folder that the user named: for messages, and to write to. Read from `root`."""
        return self.root if self.signed is None else self.signed.source

    @property
    def named(self) -> str:
        """The bundle in messages and commands: its folder, or its commit on the hub."""
        return str(self.home) if self.hub is None else str(self.hub.reference)

    @property
    def name(self) -> str:
        """The last part of where it is: for titles and names of files."""
        if self.hub is None:
            return self.home.resolve().name
        return str(self.hub.reference).partition("@")[0].rpartition("/")[2]

    def address(self, file: str | None = None) -> str:
        """What opens this bundle, or an engine file in it, again and from any folder."""
        if self.hub is None:
            return str((self.home / (file or "")).resolve())
        return str(self.hub.reference.inside(file) if file else self.hub.reference)

    def choose(self, file: str | None = None) -> EngineChoice:
        """The engine `file` (default: the preferred one) with the backend that the manifest names."""
        file = file or self.manifest.order[0]
        return EngineChoice(self, file, self.manifest.engines[file].backend)

    def present(self) -> tuple[str, ...]:
        """The files of the manifest to be found on this disk: all, or of the hub those that were fetched."""
        return tuple(self.manifest.files) if self.hub is None or self.signed else self.hub.present()

    def require_local(self, what: str) -> None:
        """Raise MisuseError for a bundle on the hub, which nothing is written into."""
        if self.hub is not None:
            reference = self.hub.reference
            raise MisuseError(
                f"{self.named} is on the hub, {what} changes a folder; copy it first: dinodeploy bundle pull "
                f"{str(reference).removeprefix('hf://')} DIR"
            )

    def verify(self, names: Iterable[str] | None = None) -> None:
        """Check size and hash of the named files (default: all). Raises BundleError or TamperedError."""
        if names is None and self.hub is not None and self.signed is None:
            self.hub.provide_extras((manifests.SIGNATURE_FILE, manifests.LICENCE_FILE))
        for name in self.manifest.files if names is None else names:
            if name not in self.manifest.files:
                raise BundleError(
                    f"{self.named}: {manifests.FILE_NAME} does not list {name}; export it again"
                )
            facts = self.manifest.files[name]
            if self.signed is not None:
                if self.signed.files[name] != facts:  # hashed while it was copied
                    raise TamperedError(f"{self.home / name} is signed, but is not what the manifest says")
            elif self.hub is not None:
                self.hub.provide(name, verify_file)
            else:
                verify_file(self.root / name, facts)


@dataclass(frozen=True)
class EngineChoice:
    """An engine file of a bundle and the backend that runs it."""

    bundle: Bundle
    file: str  # a key of the manifest's `engines` or `text_engines`
    backend: str  # the manifest's, or another that can run the graph (`backends/select.py`)

    @property
    def root(self) -> Path:
        return self.bundle.root

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def facts(self) -> EngineFacts:
        return self.manifest.all_engines[self.file]

    @property
    def golden(self) -> str:
        """The file of cases that it is judged on."""
        return TEXT_GOLDEN_FILE if self.file in self.manifest.text_engines else GOLDEN_FILE

    @property
    def path(self) -> Path:
        return self.root / self.file

    @property
    def named(self) -> str:
        """The engine file where the user has it: for messages."""
        hub = self.bundle.hub
        return str(self.bundle.home / self.file) if hub is None else str(hub.reference.inside(self.file))

    @property
    def label(self) -> str:
        """The engine file, of the hub with the commit: for lines that say what runs."""
        return self.file if self.bundle.hub is None else f"{self.file} of {self.bundle.named}"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that the engine computes."""
        return self.manifest.outputs_of(self.file)

    @property
    def needed_files(self) -> tuple[str, ...]:
        """The files that are read when the engine is opened and judged."""
        vocabulary = (
            (self.manifest.text.vocabulary,) if self.golden != GOLDEN_FILE and self.manifest.text else ()
        )
        return tuple(dict.fromkeys((*self.manifest.files_of(self.file), *vocabulary, self.golden)))

    def check_outputs(self, names: Collection[str]) -> None:
        """Raise MisuseError for an output that the engine does not compute."""
        for name in names:
            if name not in self.outputs:
                raise MisuseError(
                    f"outputs {','.join(names)!r}: {name!r} does not fit; {self.named} has "
                    f"{', '.join(self.outputs)}"
                )

    def check_external_data(self) -> None:
        """Check that its graph reads no file that the manifest does not list for it. Raises BundleError.

        A plan is no graph; one without weights reads those of the graph that it was built from.
        """
        build = self.facts.build
        for name in (self.file,) if build is None else (build.source,) if build.stripped else ():
            if not name.endswith(".onnx"):  # ONNX Runtime and OpenVINO read other formats by their suffix
                raise BundleError(f"{self.bundle.named}: {name} is a graph; wanted a name NAME.onnx")
            sizes = {file: self.manifest.files[file].bytes for file in self.manifest.files_of(name)}
            check_external_data(self.root / name, sizes)

    def fingerprint(self, preprocess: Preprocess) -> dict[str, Any]:
        """What decides the numbers of an embedding made by this engine."""
        return self.manifest.fingerprint(self.file, preprocess)


def open_bundle(path: str | Path, *, require_signature: str | Path | None = None) -> Bundle:
    """The bundle at `path`: a directory, an engine file inside one, or hf://ORG/NAME. Reads its manifest.

    require_signature: a public key file. The whole bundle must be signed with it; what is then read is a
    private copy, made while the signature was verified. Every command and function that opens a bundle comes
    here. Raises MisuseError if nothing exists at `path`, BundleError if it is not a bundle, TamperedError if
    it is not what was signed, HubError where the hub cannot be reached.
    """
    return locate(path, require_signature=require_signature)[0]


def locate(path: str | Path, *, require_signature: str | Path | None = None) -> tuple[Bundle, str | None]:
    """The bundle at `path` and the engine file that `path` names; None where it is the bundle's directory.

    Raises as `open_bundle`.
    """
    key = None if require_signature is None else Path(require_signature)
    bundle, file = _on_hub(path, key) if is_on_hub(path) else _in_folder(Path(path), key)
    if not bundle.manifest.engines:
        raise BundleError(f"{bundle.named} has no engine; export it again")
    if file is not None and file not in bundle.manifest.engines:
        known = ", ".join(bundle.manifest.order)
        raise BundleError(f"{bundle.named} has no engine {file!r}; its engines: {known}")
    return bundle, file


def is_on_hub(path: str | Path) -> bool:
    """Whether a path names the hub and no file of this machine: hf://, or hf:/, which pathlib makes of it."""
    return str(path).startswith(("hf:/", "hf:\\"))


def pinned(path: str | Path) -> str | Path:
    """`path`, of the hub at its commit of now: processes that open it later then open the same bundle."""
    if not is_on_hub(path):
        return path
    bundle, file = locate(path)
    return bundle.address(file)


def _in_folder(path: Path, key: Path | None) -> tuple[Bundle, str | None]:
    for folder in (path, path.parent):
        restore(folder)  # a process that replaced the bundle may have been killed
    if not path.exists():
        raise MisuseError(
            f"{path}: no such bundle; make one: dinodeploy export --arch vit_small --out {path}"
        )
    root = path if path.is_dir() else path.parent
    if not (root / manifests.FILE_NAME).is_file():
        raise BundleError(
            f"{path} is in no bundle: {root / manifests.FILE_NAME} is missing; make one: dinodeploy export"
        )
    signed = None if key is None else _verified_copy(root, key)
    read = root if signed is None else signed.root
    return Bundle(read, manifests.read_manifest(read), signed=signed), None if path.is_dir() else path.name


def _on_hub(path: str | Path, key: Path | None) -> tuple[Bundle, str | None]:
    from dinodeploy.hub.files import open_on_hub  # not loaded for a bundle on this disk

    files, manifest, file = open_on_hub(path)
    bundle = Bundle(files.root, manifest, hub=files)
    if key is None:
        return bundle, file
    bundle.verify()  # fetches everything, which the signature is over
    signed = _verified_copy(files.root, key)
    return Bundle(signed.root, manifests.read_manifest(signed.root), signed=signed, hub=files), file


def _verified_copy(root: Path, public_key: Path) -> SignedCopy:
    from dinodeploy.bundle.signing import SignedCopy  # not loaded by `import dinodeploy`

    return SignedCopy(root, public_key)


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
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
