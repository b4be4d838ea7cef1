"""Locks, flushing and renaming have owners: elsewhere they would meet systems that know them differently."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("dinodeploy", "exporters", "dinov3_ref")
# what -> the modules that may use it
OWNERS = {
    "fsync": {"dinodeploy/files/atomic.py", "dinov3_ref/atomic.py"},
    "rename": {
        "dinodeploy/files/atomic.py",
        "dinodeploy/files/unfinished/exchange.py",
        "dinov3_ref/atomic.py",
    },
    "lock": {"dinodeploy/files/lock.py"},
    "name of a process": set(),
}


def operations(source: str) -> Iterator[tuple[str, int]]:
    """(operation, line) of a module's source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Attribute, ast.Name)):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in ("fsync", "fdatasync", "sync_file_range"):
                yield "fsync", node.lineno
            elif name in ("flock", "lockf", "locking", "LOCK_EX", "LOCK_SH", "F_SETLK", "F_SETLKW"):
                yield "lock", node.lineno
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "fcntl", "msvcrt"):
            for alias in node.names:
                yield from operations(f"{node.module}.{alias.name}(1)")
        if isinstance(node, ast.Import) and any(alias.name == "msvcrt" for alias in node.names):
            yield "lock", node.lineno
        if isinstance(node, ast.Call) and _renames(node):
            yield "rename", node.lineno
        formatted = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and _is_text(node))
        if formatted and any(isinstance(n, ast.Attribute) and n.attr == "getpid" for n in ast.walk(node)):
            yield "name of a process", node.lineno


def _renames(call: ast.Call) -> bool:
    """Text has `replace` with two arguments, and dates with keywords; a path has it with one."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if owner in ("os", "shutil"):
        return function.attr in ("rename", "renames", "replace", "move")
    return function.attr in ("rename", "replace") and len(call.args) == 1 and not call.keywords


def _is_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in ("str", "repr", "hex", "format", "with_name", "with_suffix", "joinpath", "Path")


@pytest.mark.parametrize("package", PACKAGES)
def test_only_their_owners_lock_flush_and_rename(package: str) -> None:
    elsewhere = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for what, line in operations(path.read_text("utf-8"))
        if path.relative_to(ROOT).as_posix() not in OWNERS[what]
    ]
    assert elsewhere == []


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("os.fsync(f)", "fsync"),
        ("from os import fsync", "fsync"),
        ("flush = os.fdatasync", "fsync"),
        ("os.replace(a, b)", "rename"),
        ("from os import rename", "rename"),
        ("shutil.move(a, b)", "rename"),
        ("path.with_name('x').rename(target)", "rename"),
        ("path.replace(target)", "rename"),
        ("fcntl.flock(f, 2)", "lock"),
        ("from fcntl import lockf", "lock"),
        ("import msvcrt", "lock"),
        ("name = f'.partial-{os.getpid()}'", "name of a process"),
        ("name = '.partial-' + str(os.getpid())", "name of a process"),
        ("name = '.partial-{}'.format(os.getpid())", "name of a process"),
    ],
)
def test_what_is_found(source: str, what: str) -> None:
    assert what in {found for found, _ in operations(source)}


@pytest.mark.parametrize(
    "source", ["text.replace('a', 'b')", "replace(x, y=1)", "x.replace(y=1)", "os.kill(os.getpid(), 1)"]
)
def test_what_is_free(source: str) -> None:
    assert list(operations(source)) == []
