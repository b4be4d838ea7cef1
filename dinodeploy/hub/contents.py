"""What a push uploads: a verified bundle, or a folder that `export --layout transformers` wrote.

A bundle takes everything that travels with it (`bundle/archive.py`), and its model card is made for it. A
folder for transformers.js has a card of its own, written when its graphs were judged, and no hashes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.archive import members
from dinodeploy.bundle.bundle import Bundle, is_on_hub, open_bundle
from dinodeploy.bundle.manifest import EXTRAS, LICENCE_FILE, PLAIN_NAME
from dinodeploy.errors import MisuseError
from dinodeploy.files.regular import is_regular, read_regular
from dinodeploy.hub.card import CARD_FILE
from dinodeploy.hub.reference import HubReference

GRAPHS = "onnx"  # folder of a transformers layout
TRANSFORMERS = ("config.json", "preprocessor_config.json", CARD_FILE, LICENCE_FILE)  # beside it

Content = bytes | Path


@dataclass(frozen=True)
class Contents:
    """Files by their path in the repository. hashes: the SHA-256 of those that are known.

    bundle: None for a transformers layout.
    """

    files: dict[str, Content]
    licence: str
    title: str
    bundle: Bundle | None = None
    hashes: dict[str, str] = field(default_factory=dict)


def read_contents(
    source: str | Path | Bundle, reference: HubReference, *, require_signature: str | Path | None = None
) -> Contents:
    """The contents of a bundle, which is verified, or of a transformers layout, for a place on the hub.

    require_signature: a public key file, with which a bundle must be signed. Raises MisuseError for neither
    and for a layout where a signature is required, TamperedError or BundleError for a bundle that is not
    what was exported.
    """
    if isinstance(source, Bundle):
        return _of_bundle(source, reference)
    folder = Path(source)
    if not is_on_hub(source) and not (folder / manifests.FILE_NAME).exists() and _is_transformers(folder):
        if require_signature is not None:
            raise MisuseError(f"{folder} is a transformers layout and cannot be signed; push a bundle")
        files: dict[str, Content] = {reference.path_of(path): folder / path for path in _layout(folder)}
        licence = read_regular(folder / LICENCE_FILE).decode("utf-8", "replace").split("\n\n", 1)[-1].strip()
        return Contents(files, licence, f"{folder.resolve().name} for transformers.js")
    return _of_bundle(open_bundle(source, require_signature=require_signature), reference)


def _of_bundle(bundle: Bundle, reference: HubReference) -> Contents:
    bundle.verify()
    manifest = bundle.manifest
    files: dict[str, Content] = {
        reference.path_of(name): (bundle.root / name).resolve() for name in members(bundle)
    }
    files.setdefault(reference.path_of(LICENCE_FILE), manifests.licence_text(manifest))
    hashes = {reference.path_of(name): facts.sha256 for name, facts in manifest.files.items()}
    title = f"{manifest.model.arch} {manifest.graph.recipe}"
    return Contents(files, manifest.licence, title, bundle, hashes)


def _is_transformers(folder: Path) -> bool:
    return all(is_regular(folder / name) for name in TRANSFORMERS) and (folder / GRAPHS).is_dir()


def _layout(folder: Path) -> Iterator[str]:
    yield from TRANSFORMERS
    for path in sorted((folder / GRAPHS).iterdir()):
        if is_regular(path) and PLAIN_NAME.fullmatch(path.name) and path.name not in EXTRAS:
            yield f"{GRAPHS}/{path.name}"
