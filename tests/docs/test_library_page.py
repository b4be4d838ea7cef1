"""The Python in the docs: every program parses and its imports exist; library.md and embed.md run."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.images.photographs import photograph

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))

RUN_WHOLE = ("vector-databases.md", "pytorch.md")  # by tests of their own


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


@pytest.mark.parametrize("page", [page for page in PAGES if fences(page) and page not in RUN_WHOLE])
def test_every_program_parses_and_its_imports_exist(page: str) -> None:
    if page in ("export.md", "coming-from.md", "heads.md"):
        pytest.importorskip("torch")
    if page == "fine-tune.md":  # PEFT imports transformers, which imports torchvision
        pytest.importorskip("peft")
        from dinov3_ref.torchvision_shim import import_torchvision

        import_torchvision()
    for program in fences(page):
        tree = ast.parse(program)
        tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(tree, page, "exec"), {})
