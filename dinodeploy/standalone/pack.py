"""One file for a device that has Python, numpy, pillow and onnxruntime, and nothing else.

    python3 model.pyz embed images/ --out embeddings      also: check, inspect, bundle verify, doctor

A zip application (PEP 441): this package, rich (pure Python, its licence included), a
stand-in for typer (`typer_on_argparse.py`: typer itself needs compiled packages), and the bundle. Engines
have to be files, so they are unpacked once into the user's cache, under the bundle's digest, or into a
temporary directory where there is none to be written; every file is verified each time before it is used.
"""

from __future__ import annotations

import importlib.metadata
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dinodeploy.bundle.archive import add_bundle
from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.errors import OutputExistsError, UnavailableError
from dinodeploy.files import atomic
from dinodeploy.standalone import BUNDLE_PREFIX

_VENDORED = ("rich",)  # what it needs for Markdown and code, we never ask for
_SHEBANG = b"#!/usr/bin/env python3\n"
_DATE = (1980, 1, 1, 0, 0, 0)
_MAIN = """from dinodeploy.standalone.start import main

main()
"""


def pack_standalone(root: Path, target: Path, *, overwrite: bool = False) -> Path:
    """The bundle at `root` and the runtime as one file that Python runs. Its files are verified first.

    Raises BundleError or TamperedError, OutputExistsError, UnavailableError for a package that is not pure
    Python here.
    """
    bundle = open_bundle(root)
    bundle.verify()
    if target.exists() and not (overwrite and target.is_file()):
        raise OutputExistsError(f"{target} exists; pass --overwrite, or choose another --out")
    with atomic.atomic_file(target) as file:
        file.write(_SHEBANG)
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in sorted(_code().items()):
                archive.writestr(_entry(name), content, compress_type=zipfile.ZIP_DEFLATED)
            add_bundle(archive, bundle, BUNDLE_PREFIX)
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return target


def _code() -> dict[str, bytes]:
    """Every module by its place in the archive, and the licences of what is not ours."""
    here = Path(__file__).parent.parent
    files = {
        f"dinodeploy/{path.relative_to(here).as_posix()}": path for path in here.rglob("*") if path.is_file()
    }
    ours = {name: path.read_bytes() for name, path in files.items() if "__pycache__" not in name}
    stand_in = ours["dinodeploy/standalone/typer_on_argparse.py"]
    return {**dict(_vendored()), **ours, "typer.py": stand_in, "__main__.py": _MAIN.encode()}


def _vendored() -> Iterator[tuple[str, bytes]]:
    for name in _VENDORED:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise UnavailableError(
                f"packing needs {name}, which is not installed: pip install rich"
            ) from error
        for file in distribution.files or ():
            place = PurePosixPath(file.as_posix())
            licence = ".dist-info/" in str(place) and "LICEN" in place.name.upper()
            if place.suffix in (".so", ".pyd"):
                raise UnavailableError(f"{name} is not pure Python here ({place.name}), so it cannot travel")
            is_module = place.suffix == ".py"
            if not place.is_absolute() and ".." not in place.parts and (is_module or licence):
                yield str(place), Path(str(file.locate())).read_bytes()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.create_system = 3
    return entry
