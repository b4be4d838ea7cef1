"""The example of similar images, run on real photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.images.photographs import photograph
from tests.support.processes.run_example import run_example

pytest.importorskip("lance")


def test_it_finds_the_image_again(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee", "rocket", "retina", "china"):
        photograph(name).resize((180, 120)).save(tmp_path / "photos" / f"{name}.jpg")
    photograph("coffee").save(tmp_path / "query.jpg")
    options = ("--engine", tiny_bundle, "-k", 3)
    out = run_example("01_embed_and_search.py", "photos", "query.jpg", *options, cwd=tmp_path)
    lines = out.splitlines()
    assert lines[-2].startswith("Most similar images: ['photos/coffee.jpg', ")
    assert lines[-1] == "the index agrees"
    assert lines[0] == "embeddings: 5 images embedded, 0 quarantined"
    assert (tmp_path / "similar.html").read_text(encoding="utf-8").count("<img ") == 4
