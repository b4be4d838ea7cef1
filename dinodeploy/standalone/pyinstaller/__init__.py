"""Tell PyInstaller what a program that uses dinodeploy consists of.

Commands, backends, formats and pages are imported or read by name when they are used, so PyInstaller finds
few of them. It finds this folder through the entry point `pyinstaller40`, and runs `hook` of
`hook-dinodeploy.py` in it. Source: https://pyinstaller.org/en/stable/hooks.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dinodeploy


def hook_dirs() -> list[str]:
    """The folders that hold hooks: the value of the entry point."""
    return [str(Path(__file__).parent)]


def hook(hook_api: Any) -> None:
    """Add every module and every data file of dinodeploy to the program."""
    package = Path(dinodeploy.__file__).parent
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    modules = (path.relative_to(package.parent).with_suffix("") for path in files if path.suffix == ".py")
    hook_api.add_imports(*(".".join(path.parts) for path in modules if path.name.isidentifier()))
    hook_api.add_datas([(str(path), str(path.parent.relative_to(package.parent))) for path in files])
