"""Unpack the bundle inside `model.pyz`: engines must be files."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.archive import unpack
from dinodeploy.errors import DinodeployError
from dinodeploy.files.cache import cache_dir
from dinodeploy.standalone import BUNDLE_PREFIX


def unpack_inner(archive: Path) -> Path:
    """The bundle of `archive` as a directory in the cache; a complete one from an earlier run is used again.

    Without a writable cache it is a temporary directory, removed at exit.
    """
    with zipfile.ZipFile(archive) as file:
        content = json.loads(file.read(f"{BUNDLE_PREFIX}{manifests.FILE_NAME}"))
    digest = str(content["digest"])
    cache = cache_dir("standalone")
    try:
        if _is_complete(cache / digest, digest):
            return cache / digest
        shutil.rmtree(cache / digest, ignore_errors=True)
        return unpack(archive, cache / digest, prefix=BUNDLE_PREFIX)
    except OSError:  # the cache is not writable
        folder = Path(tempfile.mkdtemp(prefix="dinodeploy-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return unpack(archive, folder / "bundle", prefix=BUNDLE_PREFIX)


def _is_complete(root: Path, digest: str) -> bool:
    """Whether every file exists with its size. Hashes are verified when an engine is opened."""
    try:
        manifest = manifests.read_manifest(root)
        sizes = {name: (root / name).stat().st_size for name in manifest.files}
    except (DinodeployError, OSError):
        return False
    return manifest.digest == digest and all(
        sizes[name] == facts.bytes for name, facts in manifest.files.items()
    )
