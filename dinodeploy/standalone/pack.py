"""Create `model.pyz`: a bundle and the runtime in one file that Python runs.

    python3 model.pyz embed images/ --out embeddings      also: check, inspect, doctor

A zip application (PEP 441) of this package and the bundle. The device needs Python, numpy, Pillow,
safetensors and the runtime of an engine, such as onnxruntime. The same bundle gives the same bytes.
"""

from __future__ import annotations

import stat
import zipfile
from contextlib import suppress
from pathlib import Path

from dinodeploy.bundle.archive import add_bundle
from dinodeploy.bundle.bundle import Bundle, open_bundle
from dinodeploy.errors import OutputExistsError
from dinodeploy.files import atomic
from dinodeploy.standalone import BUNDLE_PREFIX

_SHEBANG = b"#!/usr/bin/env python3\n"
_DATE = (1980, 1, 1, 0, 0, 0)
# Every Python understands it, the second too. 4: not possible on this machine (`errors.py`).
_MAIN = """import sys

if sys.version_info < (3, 10):
    found = sys.version.split()[0]
    sys.stderr.write("error: %s needs Python 3.10 or newer, this is %s\\n" % (sys.argv[0], found))
    sys.exit(4)
from dinodeploy.standalone.start import main

main()
"""


def pack_standalone(bundle: Path | Bundle, target: Path, *, overwrite: bool = False) -> Path:
    """Write the verified bundle and the runtime as one executable. Raises BundleError, OutputExistsError."""
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    bundle.verify()
    if target.exists() and not (overwrite and target.is_file()):
        raise OutputExistsError(f"{target} exists; pass --overwrite, or choose another --out")
    with atomic.atomic_file(target) as file:
        file.write(_SHEBANG)
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in sorted(_code().items()):
                archive.writestr(_entry(name), content, compress_type=zipfile.ZIP_DEFLATED)
            add_bundle(archive, bundle, BUNDLE_PREFIX)
    with suppress(PermissionError):  # FAT and some shares keep no modes
        target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return target


def _code() -> dict[str, bytes]:
    """The modules and data files of this package, by their path in the archive."""
    here = Path(__file__).parent.parent
    ours = {
        f"dinodeploy/{path.relative_to(here).as_posix()}": path.read_bytes()
        for path in here.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return {**ours, "__main__.py": _MAIN.encode()}


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.create_system = 3
    return entry
