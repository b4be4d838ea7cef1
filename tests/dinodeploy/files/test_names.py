"""Names that are valid on every system, and never given out twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinodeploy.files.names import LONGEST, UniqueNames, safe_stem


@pytest.mark.parametrize(
    ("id_", "stem"),
    [
        ("photos/cat.jpg", "cat"),
        ("cat", "cat"),
        ("a.b.c.png", "a.b.c"),
        ("Ünï çødé.jpg", "Ünï çødé"),
        ("猫.jpg", "猫"),
        (".hidden", ".hidden"),
        ("con.jpg", "_con"),
        ("COM1.jpg", "_COM1"),
        ("lpt9.tar.gz", "_lpt9.tar"),
        ("nul", "_nul"),
        ("console.jpg", "console"),
        ("a:b*c?.jpg", "a_b_c_"),
        ("C:\\photos\\a.jpg", "C__photos_a"),
        ("a\nb.jpg", "a_b"),
        ("trailing. .jpg", "trailing"),
        ("...", "_"),
        ("x.parquet#17", "x"),
        ("", "_"),
        ("caf\udce9.jpg", "caf�"),
    ],
)
def test_stems_are_valid_everywhere(id_: str, stem: str) -> None:
    assert safe_stem(id_) == stem


@pytest.mark.parametrize("text", ["x" * 300, "猫" * 100, "é" * 200, "👩‍👩‍👧" * 40, "x" * 94 + "猫"])
def test_long_stems_are_cut(text: str, tmp_path: Path) -> None:
    stem = safe_stem(text + ".jpg")
    assert len(stem.encode()) <= LONGEST
    assert stem.encode().decode() == stem
    assert text.startswith(stem)
    (tmp_path / f"{stem}~1000.attention.head_12.png").touch()


def test_no_name_is_given_out_twice() -> None:
    names = UniqueNames(["visualize.json"])
    given = [
        names.claim(stem, [".png"])
        for stem in ("x", "X", "x", "x~2", "x~3", "é", "e\u0301", "ß", "SS", "ﬁ", "fi")
    ]
    assert given == ["x", "X~2", "x~3", "x~2~2", "x~3~2", "é", "e\u0301~2", "ß", "SS~2", "ﬁ", "fi~2"]


def test_every_ending_counts() -> None:
    names = UniqueNames()
    assert names.claim("a", [".pca.png", ".pca.one.pca.png"]) == "a"
    assert names.claim("a.pca.one", [".pca.png"]) == "a.pca.one~2"


def test_names_that_are_not_utf_8_can_be_written(tmp_path: Path) -> None:
    stem = safe_stem(os.fsdecode(b"caf\xe9 \xff.jpg"))
    (tmp_path / f"{stem}.png").touch()
    assert stem.encode() == "caf� �".encode()
