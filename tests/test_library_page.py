"""The Python of docs/library.md and docs/embed.md runs, in the order of the pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.photographs import photograph

ROOT = Path(__file__).parent.parent


def fences(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_python_of_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the first call exports")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    photograph("coffee").resize((160, 120)).save(tmp_path / "photos" / "coffee.jpg")
    for name in ("cat.jpg", "dog.jpg"):
        photograph("chelsea").resize((90, 60)).save(tmp_path / name)

    begin, encode, batcher, asynchronous = fences("library.md")
    names = run(begin)
    assert names["vector"].shape == (384,)
    assert names["report"].embedded == 1
    assert names["bundle"].receipt.passed
    assert run(encode)["vector"].shape == (384,)
    assert run(batcher)["vector"].shape == (384,)
    assert "embed" in run(asynchronous)
    names = run(fences("embed.md")[0])  # the store is complete: nothing is embedded again
    assert (names["report"].kept, len(names["ids"])) == (1, 1)


def run(program: str) -> dict[str, Any]:
    """The names that a program leaves."""
    names: dict[str, Any] = {}
    exec(program, names)
    return names
