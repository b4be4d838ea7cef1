"""Every source that code cites can be opened: sections of docs/spec.md, and pages of docs/."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("dinodeploy", "exporters", "dinov3_ref", "tests", "benchmarks", "examples")
SPEC = "docs/spec.md"
# "docs/spec.md 4.3", "docs/spec.md 2.3-2.6", "docs/spec.md 2.8, 2.9", "docs/spec.md 0, fact 3"
CITED = re.compile(r"docs/spec\.md ((?:\d+(?:\.\d+)*)(?:(?:-|, | and )\d+(?:\.\d+)*)*)")
PAGE = re.compile(r"docs/[\w/]+\.md")
GONE = re.compile(r"SPEC [0-9]|SEED S[0-9]|issue [0-9]+ part|ANCHORS\b(?! =|\[)|\bissue [0-9]+, acceptance")


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def sections() -> set[str]:
    """Numbers of all headings: {"2", "2.1", …}."""
    return set(re.findall(r"^##+ (\d+(?:\.\d+)*)\.? ", (ROOT / SPEC).read_text("utf-8"), re.MULTILINE))


def test_cited_sections_exist() -> None:
    known, seen = sections(), 0
    for path in sources():
        for found in CITED.findall(path.read_text("utf-8")):
            for number in re.split(r"-|, | and ", found):
                seen += 1
                assert number in known, f"{path.relative_to(ROOT)} cites {SPEC} {number}, which is not there"
    assert seen > 100, "the pattern no longer matches how code cites"


def test_cited_pages_exist_and_nothing_else_is_cited() -> None:
    for path in sources():
        text = path.read_text("utf-8")
        for page in PAGE.findall(text):
            assert (ROOT / page).is_file(), f"{path.relative_to(ROOT)} cites {page}, which is not there"
        if path != Path(__file__):
            assert not GONE.search(text), f"{path.relative_to(ROOT)}: {GONE.search(text)}"
