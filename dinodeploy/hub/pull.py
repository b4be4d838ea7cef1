"""Copy a whole bundle from the Hugging Face hub into a folder of its own.

    from dinodeploy.hub.pull import pull

    pull("org/name@v1", "bundle")

Every file of the manifest is there afterwards, byte for byte as it was pushed, with the receipts, the licence
and the signature. `--engine hf://org/name` needs no copy, and fetches only what it runs.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.archive import CHUNK, members
from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.bundle.manifest import Manifest
from dinodeploy.errors import OutputExistsError
from dinodeploy.files.atomic import atomic_directory
from dinodeploy.files.regular import create_file, open_regular
from dinodeploy.hub.reference import parse


@dataclass(frozen=True)
class Pulled:
    """What was copied: the folder, where it is from (at its commit), and its manifest."""

    out: Path
    source: str
    manifest: Manifest

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `bundle pull --json` prints them."""
        facts = {"out": str(self.out), "source": self.source, "digest": self.manifest.digest}
        return {**facts, "files": list(self.manifest.files), "licence": self.manifest.licence}


def pull(
    source: str,
    out: str | Path | None = None,
    *,
    revision: str | None = None,
    require_signature: str | Path | None = None,
    overwrite: bool = False,
) -> Pulled:
    """The bundle at ORG/NAME[/FOLDER][@REVISION], as the folder `out`; whole and verified, or not at all.

    out: default: by the last name of `source`. overwrite: replace a bundle that is there. Raises MisuseError
    for a source that cannot be, OutputExistsError, HubError, BundleError and TamperedError.
    """
    reference = parse(source, revision)
    target = Path(out or (reference.folder or reference.repo).rpartition("/")[2])
    if target.exists() and not (overwrite and (target / manifests.FILE_NAME).is_file()):
        raise OutputExistsError(
            f"{target} exists; pass --overwrite to replace a bundle, or choose another DIR"
        )
    bundle = open_bundle(str(reference), require_signature=require_signature)
    bundle.verify()
    with atomic_directory(target.resolve()) as partial:
        for name in members(bundle):
            with open_regular(bundle.root / name) as file, create_file(partial / name) as copy:
                shutil.copyfileobj(file, copy, CHUNK)
        Bundle(partial, bundle.manifest).verify()
    return Pulled(target, bundle.named, bundle.manifest)
