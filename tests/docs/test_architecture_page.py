"""docs/architecture.md lists every folder of the three packages, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ("dinodeploy", "exporters", "dinov3_ref")
INDENT = 2  # spaces per level


def listed() -> Iterator[str]:
    """The paths of the tree in the page."""
    block = PAGE.split("<!-- folders: begin -->")[1].split("<!-- folders: end -->")[0]
    parents: list[str] = []
    for spaces, name, purpose in re.findall(r"^( *)(\w+)/ +(\S.*)$", block, re.MULTILINE):
        level = len(spaces) // INDENT
        parents[level:] = [name]
        assert purpose
        yield "/".join(parents)


def there() -> Iterator[str]:
    for package in PACKAGES:
        yield package
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_dir() and path.name != "__pycache__" and any(path.glob("*.*")):
                yield path.relative_to(ROOT).as_posix()


def test_the_tree_is_the_file_system() -> None:
    assert sorted(listed()) == sorted(there())
