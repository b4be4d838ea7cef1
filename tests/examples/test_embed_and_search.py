"""The example of similar pictures is run on real photographs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.photographs import photograph

pytest.importorskip("lance")

ROOT = Path(__file__).parents[2]


def test_it_finds_the_picture_again(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee", "rocket", "retina", "china"):
        photograph(name).resize((180, 120)).save(tmp_path / "photos" / f"{name}.jpg")
    photograph("coffee").save(tmp_path / "query.jpg")
    ran = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples" / "01_embed_and_search.py"),
            *("photos", "query.jpg", "--engine", str(tiny_bundle), "-k", "3"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[-2].startswith("Most similar images: ['photos/coffee.jpg', ")
    assert lines[-1] == "the index agrees"
    assert len([line for line in lines if line.startswith("$ dinodeploy ")]) == 3
    assert (tmp_path / "similar.html").read_text(encoding="utf-8").count("<img ") == 4
