"""CSV and TSV tables of paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.dinodeploy.sources.reading import ALL, ids, misuse, read_all
from tests.support.images.image_files import write_folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "header", "options"),
    [
        ("t.csv", "label,path", {}),
        ("t.csv", "label;Image_Path", {}),
        ("t.tsv", "label\tFILE", {}),
        ("t.csv", "label,odd", {"column": "odd"}),
        ("t.csv", "\ufefflabel,url", {}),
    ],
)
def test_table_of_paths(name: str, header: str, options: dict[str, Any]) -> None:
    mark = next(sign for sign in ",;\t" if sign in header)
    rows = ["a|photos/still/coffee.jpg", "b|", 'c|"photos/still/china.jpg"', "", "d|photos/none.jpg", "e"]
    Path(name).write_text("\n".join([header, *rows]).replace("|", mark), encoding="utf-8")
    seen = read_all(name, **options)
    assert list(seen) == [ALL[3], f"{name}#1", ALL[2], "photos/none.jpg", f"{name}#4"]
    assert [type(one) is str for one in seen.values()] == [False, True, False, True, True]
    assert "this row has no image" in seen[f"{name}#1"]


def test_only_column_needs_no_name() -> None:
    Path("t.csv").write_text("pictures\nphotos/still/coffee.jpg\n")
    assert ids("t.csv") == [ALL[3]]


def test_ids_of_a_table_stay_with_their_rows() -> None:
    Path("t.csv").write_text(
        "key,path\nx,photos/still/coffee.jpg\ny,photos/none.jpg\nz,\nw,photos/still/coffee.jpg\n"
    )
    seen = read_all("t.csv", id_column="key")
    assert list(seen) == ["x", "y", "z", "w"]  # the same image under two ids stays two rows
    np.testing.assert_array_equal(seen["x"], seen["w"])
    assert "'z': this row has no image" in seen["z"]


def test_table_misuse_is_one_line() -> None:
    Path("t.csv").write_text("key,where\nx,1.jpg\n,2.jpg\nx,3.jpg\n")
    assert "has columns 'key', 'where'; none has a usual name (path, filepath" in misuse("t.csv")
    assert "has no column 'nope', only key, where" in misuse("t.csv", column="nope")
    assert "row 1 has no 'key'" in misuse("t.csv", column="where", id_column="key")
    Path("u.csv").write_text("key,path\nx,1.jpg\nx,3.jpg\n")
    assert "the id 'x' is given to two images" in misuse("u.csv", id_column="key")
    Path("empty.csv").touch()
    assert "'empty.csv' is empty; wanted a table with a header" in misuse("empty.csv")
    os.mkfifo("fifo.csv")
    assert "not a regular file" in misuse("fifo.csv")
    os.mkfifo("fifo.txt")
    assert "not a regular file" in misuse("fifo.txt")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_tables_as_spreadsheets_write_them(encoding: str) -> None:
    rows = f'sep=;\r\nnote;path\r\n"two\r\nlines; {"x" * 200_000}";photos/still/coffee.jpg\r\n'
    Path("t.csv").write_bytes(rows.encode(encoding))
    assert ids("t.csv") == [ALL[3]]


def test_two_columns_of_one_name() -> None:
    Path("t.csv").write_text("path,path\na.jpg,b.jpg\n")
    assert "has 2 columns 'path'; rename all but one" in misuse("t.csv")
    assert "has 2 columns 'path'" in misuse("t.csv", column="path")
