"""Pixels are right or refused: every layout of every format against the numbers that were written.

python -m tests.support.images.matrix       the counts of docs/sources.md
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.images.matrix import FAMILIES, Count, count_family

pytest.importorskip("tifffile", reason="the extra tiff is not installed")
pytest.importorskip("imagecodecs", reason="the extra tiff is not installed")

ROOT = Path(__file__).parents[3]
WAYS_OUT = re.compile(r"convert|save|install|export|give|choose|shrink|render|read here")


def check(name: str, step: int) -> Count:
    """Every `step`-th case: right where there is a right answer, refused where not."""
    count = count_family(name, step)
    assert count.wrong == [], "\n".join(count.wrong[:20])
    assert count.lost == [], "\n".join(count.lost[:20])
    assert count.read
    return count


@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_are_right_or_refused(name: str) -> None:
    check(name, 29 if name == "tiff" else 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_case_of_the_matrix(name: str) -> None:
    count = check(name, 1)
    row = f"| {name} | {count.total} | {count.read} | {count.refused} | 0 |"
    assert row in (ROOT / "docs" / "sources.md").read_text("utf-8"), f"docs/sources.md has no line {row}"
    for reason in count.reasons:
        assert WAYS_OUT.search(reason), f"no way out: {reason}"
