"""What `python3 model.pyz` does then: find the bundle it carries, and hand over to the ordinary commands."""

from __future__ import annotations

import atexit
import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NoReturn

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.archive import unpack
from dinodeploy.errors import DinodeployError
from dinodeploy.files.cache import cache_dir
from dinodeploy.standalone import BUNDLE_PREFIX

# Where a command takes the bundle: after this option, or as its first argument.
_OPTION = {"embed": "--engine", "predict": "--engine", "visualize": "--engine", "serve": ""}
_ARGUMENT = ("check", "inspect", "doctor")


def main() -> NoReturn:
    """Runs the command line with the bundle filled in where none was given."""
    from dinodeploy.cli.app import main as command_line
    from dinodeploy.cli.output import fail

    archive = Path(sys.argv[0]).resolve()
    try:
        sys.argv[1:] = with_bundle(sys.argv[1:], archive)
    except DinodeployError as error:
        fail(str(error), error.exit_code)
    command_line()


def with_bundle(arguments: list[str], archive: Path) -> list[str]:
    """The user's arguments, and the bundle of `archive` where the command needs one."""
    command, *rest = arguments or ["--help"]
    if "--help" in rest:
        return arguments
    if command in _OPTION and not any(one.split("=")[0] == _OPTION[command] for one in rest):
        return [command, *rest, *filter(None, [_OPTION[command]]), str(unpacked(archive))]
    if command in _ARGUMENT and (not rest or rest[0].startswith("-")):
        return [command, str(unpacked(archive)), *rest]
    return arguments


def unpacked(archive: Path) -> Path:
    """The bundle as a directory: the one of an earlier run if it is whole, else a new one."""
    with zipfile.ZipFile(archive) as file:
        content = json.loads(file.read(f"{BUNDLE_PREFIX}{manifests.FILE_NAME}"))
    digest = str(content["digest"])
    cache = cache_dir("standalone")
    try:
        if _is_whole(cache / digest, digest):
            return cache / digest
        shutil.rmtree(cache / digest, ignore_errors=True)
        return unpack(archive, cache / digest, prefix=BUNDLE_PREFIX)
    except OSError:  # a home that cannot be written
        folder = Path(tempfile.mkdtemp(prefix="dinodeploy-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return unpack(archive, folder / "bundle", prefix=BUNDLE_PREFIX)


def _is_whole(root: Path, digest: str) -> bool:
    """Every file there with its size; hashes are held against the manifest where the engine is opened."""
    try:
        manifest = manifests.read_manifest(root)
        sizes = {name: (root / name).stat().st_size for name in manifest.files}
    except (DinodeployError, OSError):
        return False
    return manifest.digest == digest and all(
        sizes[name] == facts.bytes for name, facts in manifest.files.items()
    )
