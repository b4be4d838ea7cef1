"""The shape of the code base: the size of rooms and files, and which modules have a test of their own."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("dinodeploy", "exporters", "dinov3_ref")
TOP_OF_DINODEPLOY = {
    *("__init__", "__main__", "api", "arrays", "batcher", "embedder", "errors", "testing"),
}
TOP_OF_EXPORTERS = 8  # modules at most
LARGEST_ROOM = 15  # modules; cli/ has one for each command
LONGEST_FILE = 400  # lines
LONGEST_FUNCTION = 80  # lines of a body
WITHOUT_TEST = ROOT / "tests" / "without_namesake.txt"


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def every_module() -> list[Path]:
    return [path for package in PACKAGES for path in modules(package)]


def test_the_top_of_dinodeploy_is_its_public_api() -> None:
    assert {path.stem for path in (ROOT / "dinodeploy").glob("*.py")} == TOP_OF_DINODEPLOY


def test_the_top_of_exporters_is_small() -> None:
    assert len(list((ROOT / "exporters").glob("*.py"))) <= TOP_OF_EXPORTERS


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_no_room_is_crowded(package: str) -> None:
    rooms = Counter(path.parent for path in modules(package) if path.parent.name != "cli")
    assert {str(room): count for room, count in rooms.items() if count > LARGEST_ROOM} == {}


def test_no_file_is_long() -> None:
    lengths = {str(path): len(path.read_text("utf-8").splitlines()) for path in every_module()}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_long() -> None:
    long = {}
    for path in every_module():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno:
                length = node.end_lineno - node.body[0].lineno + 1
                if length > LONGEST_FUNCTION:
                    long[f"{path}:{node.name}"] = length
    assert long == {}


def without_namesake() -> set[str]:
    """Modules without tests/<same path>/test_<module>.py."""
    found = set()
    for path in every_module():
        module = path.relative_to(ROOT)
        if path.stem in ("__init__", "__main__"):
            continue
        if not (ROOT / "tests" / module.parent / f"test_{module.name}").is_file():
            found.add(module.as_posix())
    return found


def test_modules_without_a_test_of_their_own_only_become_fewer() -> None:
    """A new module brings its test; once a listed one has a test, its line is removed."""
    listed = set(WITHOUT_TEST.read_text("utf-8").split())
    assert without_namesake() == listed, "update tests/without_namesake.txt; it may only lose lines"


def foreign_private_names(path: Path) -> set[str]:
    """Uses of `module._name` and `from module import _name` of our packages, and patches of such names."""
    tree = ast.parse(path.read_text("utf-8"))
    ours, found = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            ours.update(alias.asname or alias.name for alias in node.names)
            found.update(f"{node.module}.{alias.name}" for alias in node.names if _is_private(alias.name))
        elif isinstance(node, ast.Import):
            ours.update(
                (a.asname or a.name).split(".")[0] for a in node.names if a.name.split(".")[0] in PACKAGES
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in ours:
                found.add(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr") and len(node.args) > 1:
            target, name = node.args[:2]
            root = ast.unparse(target).split(".")[0].strip("'\"")
            private = isinstance(name, ast.Constant) and _is_private(str(name.value))
            if private and (root in ours or root in PACKAGES):
                found.add(f"{ast.unparse(target)}.{name.value}")  # type: ignore[attr-defined]
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_tests_leave_private_names_alone() -> None:
    """What a test needs is a parameter, or public."""
    accesses = {}
    for path in modules("tests"):
        if found := foreign_private_names(path):
            accesses[str(path.relative_to(ROOT))] = sorted(found)
    assert accesses == {}
