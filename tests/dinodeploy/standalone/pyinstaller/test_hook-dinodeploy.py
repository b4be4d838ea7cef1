"""A program made by PyInstaller has every module and data file; `.ci/pyinstaller` builds one and runs it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import dinodeploy
from dinodeploy.cli.app import COMMANDS
from dinodeploy.standalone.pyinstaller import hook_dirs

PACKAGE = Path(dinodeploy.__file__).parent


class Api:
    """What PyInstaller hands to a hook."""

    def __init__(self) -> None:
        self.imports: list[str] = []
        self.datas: list[tuple[str, str]] = []

    def add_imports(self, *names: str) -> None:
        self.imports += names

    def add_datas(self, datas: list[tuple[str, str]]) -> None:
        self.datas += datas


def run_hook() -> Api:
    """As PyInstaller does: by the folder, and the name of the package after `hook-`."""
    (folder,) = hook_dirs()
    names: dict[str, Any] = runpy.run_path(str(Path(folder) / "hook-dinodeploy.py"))
    api = Api()
    names["hook"](api)
    return api


def test_every_module_is_in_the_program() -> None:
    found = set(run_hook().imports)
    modules = [path for path in PACKAGE.rglob("*.py") if path.name.isidentifier() or path.stem.isidentifier()]
    wanted = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules}
    assert found == wanted
    assert {f"dinodeploy.cli.{name.replace('-', '_')}" for name in COMMANDS} < found
    assert "dinodeploy.backends.onnxruntime" in found


def test_pages_are_in_the_program() -> None:
    placed = {(Path(source).name, place) for source, place in run_hook().datas}
    assert {("base.html", "dinodeploy/pages"), ("service.js", "dinodeploy/pages")} < placed
    assert not any("__pycache__" in place for _, place in placed)


def test_pyinstaller_finds_the_hook() -> None:
    text = Path("pyproject.toml").read_text("utf-8")
    assert 'pyinstaller40]\nhook-dirs = "dinodeploy.standalone.pyinstaller:hook_dirs"' in text
