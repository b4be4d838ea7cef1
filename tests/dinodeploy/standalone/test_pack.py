"""The file: reproducible, executable, and without third-party code."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from dinodeploy.standalone.pack import pack_standalone


def test_the_same_bundle_gives_the_same_file(application: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    assert pack_standalone(tiny_bundle, tmp_path / "again.pyz").read_bytes() == application.read_bytes()
    assert os.access(application, os.X_OK)


def test_the_file_has_only_this_package_and_the_bundle(application: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(application).namelist()}
    assert names == {"__main__.py", "dinodeploy", "bundle"}
