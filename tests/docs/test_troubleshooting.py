"""docs/troubleshooting.md quotes error messages: each quoted message exists in the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^> `(.+)`$", PAGE, re.MULTILINE)
LEAST = 25  # messages that the page explains
GAP = "…"  # stands for a name or a number in the page


@cache
def messages() -> tuple[str, ...]:
    """Every string of the three packages, with `…` for each value of an f-string."""
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


def is_in_the_source(message: str) -> bool:
    """Whether a string of the source contains the message. A leading gap may come from another string."""
    quoted = message.removeprefix(f"{GAP} ")
    return any(quoted in text.replace(GAP * 2, GAP) for text in messages())


def test_it_explains_enough_messages_once_each() -> None:
    assert len(QUOTED) == len(set(QUOTED)) >= LEAST
    assert PAGE.count("\n> ") == len(QUOTED), "a quotation that is not a message"


@pytest.mark.parametrize("message", QUOTED)
def test_the_message_exists_in_the_source(message: str) -> None:
    assert is_in_the_source(message), message


def test_every_message_has_an_explanation() -> None:
    for text in re.split(r"^> `.+`$", PAGE, flags=re.MULTILINE)[1:]:
        assert len(text.split("\n## ")[0].split()) >= 5, text


def test_an_unknown_message_is_not_found() -> None:
    assert not is_in_the_source("… is not the model there: … of case …: …")
