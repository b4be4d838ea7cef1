"""The file: reproducible, executable, and without third-party code."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from dinodeploy.standalone.pack import pack_standalone


def test_the_same_bundle_gives_the_same_file(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")  # others add receipts to the shared one
    first, second = (pack_standalone(bundle, tmp_path / name) for name in ("a.pyz", "b.pyz"))
    assert first.read_bytes() == second.read_bytes()
    assert os.access(first, os.X_OK)


def test_the_file_has_only_this_package_and_the_bundle(application: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(application).namelist()}
    assert names == {"__main__.py", "dinodeploy", "bundle"}
