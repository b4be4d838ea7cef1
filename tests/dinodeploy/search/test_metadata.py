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
        "large": "text",
        "half": "real",
        "price": "real",
        "day": "text",
        "when": "text",
        "kind": "text",
        "none": "text",
    }
    row = {name: column[0].as_py() for name, column in metadata.join(["a"]).items()}
    assert (row["day"], row["when"][:10], row["price"]) == ("2024-02-01", "2024-02-01", 1.25)
    assert row["large"] == str(2**64 - 1)  # neither int64 nor float64 holds it
    assert any("'large' is text" in note for note in metadata.notes)


def test_nan_is_missing_beside_numbers(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,x\na,1.5\nb,nan\nd,\n")
    metadata = read_metadata(tmp_path / "m.csv")
    assert metadata.join(["a", "b", "d"])["x"].to_pylist() == [1.5, None, None]
    assert metadata.notes == ("column 'x' 'nan' are missing values",)


@pytest.mark.parametrize(
    ("encoding", "separator", "suffix"),
    [
        ("utf-8", ",", ".csv"),
        ("utf-8-sig", ";", ".csv"),
        ("utf-16", "\t", ".tsv"),
        ("utf-16-le", "|", ".csv"),
    ],
)
def test_encodings_and_separators(tmp_path: Path, encoding: str, separator: str, suffix: str) -> None:
    rows = ["id|label|code", 'a|"x|y, ""z"""|0034', "b||0035", f"ç|{'q' * 200_000}|1"]
    text = "\r\n".join(row.replace("|", separator) for row in rows) + "\r\n"
    (tmp_path / f"m{suffix}").write_bytes(text.encode(encoding))
    metadata = read_metadata(tmp_path / f"m{suffix}")
    joined = metadata.join(["a", "b", "ç"])
    assert joined["label"].to_pylist() == [
        f'x{separator}y{separator if separator == "," else ","} "z"',
        None,
        "q" * 200_000,
    ]
    assert joined["code"].to_pylist() == ["0034", "0035", "1"]
    assert any(f"columns are separated by {separator!r}" in note for note in metadata.notes) == (
        separator != ","
    )


def test_json_lines(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(
        '{"id": "a", "n": 1, "code": "0034", "mix": 1, "list": [1]}\n\n{"id": "b", "mix": "x", "n": null}\n'
    )
    metadata = read_metadata(tmp_path / "m.jsonl")
    assert metadata.kinds == {"n": "integer", "code": "text", "mix": "text"}
    assert metadata.left_out == ("list",)
    joined = metadata.join(["b", "a"])
    assert {name: column.to_pylist() for name, column in joined.items()} == {
        "n": [None, 1], "code": [None, "0034"], "mix": ["x", "1"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.csv", "path,label\na,b\n", "got columns path, label; wanted a column 'id'"),
        ("m.csv", "id,x,x\na,b,c\n", "column 'x' appears twice"),
        ("m.csv", "id,width\na,1\n", "the column name 'width' is reserved"),
        ("m.csv", "id,_rowid\na,1\n", "the column name '_rowid' is reserved"),
        ("m.csv", "id,a.b\na,1\n", "contains a dot or a backtick"),
        ("m.csv", "id,x\na,1\na,2\n", "id 'a' appears more than once"),
        ("m.csv", "id,x\na\n", "cannot be read: row 1 has 1 cells, wanted 2"),
        ("m.csv", "id,x\na,1,2\n", "row 1 has 3 cells, wanted 2 as in the header"),
        ("m.csv", 'id,x\na,"1\n', "opens a quote and never closes it"),
        ("m.csv", "id,x\na,caf\udce9\n", "row 1, column 'x' is not UTF-8"),
        ("m.csv", "caf\udce9,id\n1,a\n", "column 'caf\\udce9' is not UTF-8"),
        ("m.csv", "", "cannot be read: 'm.csv' is empty"),
        ("m.jsonl", '{"id": "a"}\n[1]\n', "line 2 is no JSON object"),
        ("m.jsonl", '{"id": "a"}\n{"id": "b"\n', "cannot be read: line 2: not valid JSON"),
        ("m.jsonl", '{"id": 1.5}\n', "ids are not text"),
        ("m.jsonl", '{"id": "a"}\n{"x": 1}\n', "1 rows have no id"),
        ("m.parquet", "id,x\na,1\n", "cannot be read"),
        ("m.json", "{}", "got .json, wanted one of .csv, .tsv, .jsonl"),
    ],
)
def test_invalid_tables_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text, "utf-8", "surrogateescape")
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
