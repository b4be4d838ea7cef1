"""docs/speed.md prints the ledger's figures, and the README's summary of them is true."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE_LINE = re.compile(r"^\| ([^|]+) \| \d+ ms \|(.*)\|$", re.MULTILINE)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> str:
    """What docs/generate/speed_table.py computes from the ledger now."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "generate"))
    import speed_table

    sys.modules.pop("speed_table")
    return speed_table.table()


def test_the_table_is_computed_from_the_ledger(table: str) -> None:
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert table in page, "run: python docs/generate/speed_table.py"
    assert len(TABLE_LINE.findall(table)) > 15


def test_the_readme_gives_the_range_at_224_px(table: str) -> None:
    def span(recipe: str, column: int, digits: int = 1) -> str:
        found = [
            float(cell.strip(" ×"))
            for name, cells in TABLE_LINE.findall(table)
            if name.endswith("224²") and recipe == (re.findall("bf16|int8", name) or ["fp32"])[0]
            for cell in [cells.split("|")[column]]
            if cell.strip()
        ]
        return f"{min(found):.{digits}f} to {max(found):.{digits}f} times"

    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{span('fp32', 0)} as fast as PyTorch at 224 × 224 in fp32" in readme
    assert f"{span('int8', 0)} in int8" in readme
    assert f"{span('fp32', 4, 2)} as fast as OpenVINO in fp32" in readme
