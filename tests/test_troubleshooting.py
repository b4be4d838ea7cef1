"""docs/troubleshooting.md quotes what the code prints: every message in it is looked for in the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^> `(.+)`$", PAGE, re.MULTILINE)
LEAST = 25
GAP = "…"  # in the page: a name or a number


@cache
def printed() -> tuple[str, ...]:
    """Every string of the three packages, with `…` for what is filled in."""
    return tuple(
        text
        for package in ("dinodeploy", "exporters", "dinov3_ref")
        for path in sorted((ROOT / package).rglob("*.py"))
        for text in strings(ast.parse(path.read_text(encoding="utf-8")))
    )


def strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def found(message: str) -> bool:
    """Whether some string of the source says this, gaps where its gaps are.

    What it begins with may be put there by another string.
    """
    said = message.removeprefix(f"{GAP} ")
    return any(said in text.replace(GAP * 2, GAP) for text in printed())


def test_it_covers_what_is_likely() -> None:
    assert len(QUOTED) == len(set(QUOTED)) >= LEAST
    assert PAGE.count("\n> ") == len(QUOTED), "a quotation that is no message"


@pytest.mark.parametrize("message", QUOTED)
def test_every_message_is_printed(message: str) -> None:
    assert found(message), message


def test_each_says_what_to_do() -> None:
    """Something stands between one message and the next."""
    for text in re.split(r"^> `.+`$", PAGE, flags=re.MULTILINE)[1:]:
        assert len(text.split("\n## ")[0].split()) >= 5, text


def test_a_message_of_nobody_is_noticed() -> None:
    assert not found("… is not the model there: … of case …: …")
    assert not found("… is not the model here: … of … case …: …")
