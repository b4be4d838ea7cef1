"""Metadata tables: supported types, the join with images, invalid tables."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.search.metadata import read_metadata

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def test_rows_are_joined_by_id(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text('\ufeffid,label,n\nb,"two\nlines",2\n007,x,\nzz,y,3\n', encoding="utf-8")
    metadata = read_metadata(path)
    assert metadata.kinds == {"label": "text", "n": "integer"}
    joined = metadata.join(["007", "a", "b"])
    assert joined["label"].to_pylist() == ["x", None, "two\nlines"]
    assert joined["n"].to_pylist() == [None, None, 2]
    assert (metadata.facts().matched, metadata.facts().unmatched) == (2, 1)


def test_column_types(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 1)
    table = pa.table(
        {
            "id": pa.array(["a"]).dictionary_encode(),
            "flag": [True],
            "small": pa.array([3], pa.uint8()),
            "large": pa.array([2**64 - 1], pa.uint64()),
            "half": pa.array([1.5], pa.float32()),
            "price": [decimal.Decimal("1.25")],
            "day": [day],
            "when": [datetime.datetime(2024, 2, 1, 12)],
            "kind": pa.array(["x"]).dictionary_encode(),
            "none": pa.nulls(1),
            "list": [[1]],
            "bytes": [b"x"],
        }
    )
    parquet.write_table(table, tmp_path / "m.parquet")
    metadata = read_metadata(tmp_path / "m.parquet")
    assert metadata.left_out == ("list", "bytes")
    assert metadata.kinds == {
        "flag": "boolean",
        "small": "integer",
        "large": "real",
        "half": "real",
        "price": "real",
        "day": "text",
        "when": "text",
        "kind": "text",
        "none": "text",
    }
    row = {name: column[0].as_py() for name, column in metadata.join(["a"]).items()}
    assert (row["day"], row["when"][:10], row["price"], row["large"]) == ("2024-02-01",) * 2 + (1.25, 2.0**64)


def test_nan_and_infinity_are_missing(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,x\na,1.5\nb,nan\nc,inf\nd,\n")
    joined = read_metadata(tmp_path / "m.csv").join(["a", "b", "c", "d"])
    assert joined["x"].to_pylist() == [1.5, None, None, None]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.csv", "path,label\na,b\n", "got columns path, label; wanted a column 'id'"),
        ("m.csv", "id,x,x\na,b,c\n", "column 'x' appears twice"),
        ("m.csv", "id,width\na,1\n", "the column name 'width' is reserved"),
        ("m.csv", "id,_rowid\na,1\n", "the column name '_rowid' is reserved"),
        ("m.csv", "id,a.b\na,1\n", "contains a dot or a backtick"),
        ("m.csv", "id,x\na,1\na,2\n", "id 'a' appears more than once"),
        ("m.csv", "id,x\na\n", "cannot be read"),
        ("m.csv", "", "cannot be read"),
        ("m.parquet", "id,x\na,1\n", "cannot be read"),
        ("m.json", "{}", "got .json, wanted .csv or .parquet"),
    ],
)
def test_invalid_tables_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MisuseError) as caught:
        read_metadata(tmp_path / name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="no such file"):
        read_metadata(tmp_path / "m.csv")


def test_rows_without_an_id_are_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": ["a", None]}), tmp_path / "m.parquet")
    with pytest.raises(MisuseError, match="1 rows have no id"):
        read_metadata(tmp_path / "m.parquet")
