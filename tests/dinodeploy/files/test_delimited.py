"""CSV and TSV as spreadsheets and databases write them."""

from __future__ import annotations

import io

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.files.delimited import read_delimited


def read(text: str | bytes) -> list[list[str]]:
    """The header and all rows."""
    table = read_delimited(io.BytesIO(text if isinstance(text, bytes) else text.encode()), "t.csv")
    return [table.names, *table.rows]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_delimiters_line_ends_and_encodings(mark: str, end: str, encoding: str) -> None:
    text = end.join([f" id {mark}name", f"0034{mark}日本", "", f'1{mark}"a{mark}b"'])
    assert read(text.encode(encoding)) == [["id", "name"], ["0034", "日本"], ["1", f"a{mark}b"]]


def test_quotes_hold_delimiters_line_breaks_and_quotes() -> None:
    rows = read('id,"a; b; c","two\nlines"\n1,"x\r\ny","say ""hi"""\n\n2,"",\x85z\x0b\n')
    assert rows == [
        ["id", "a; b; c", "two\nlines"],
        ["1", "x\r\ny", 'say "hi"'],
        ["2", "", "\x85z\x0b"],
    ]


@pytest.mark.parametrize(("line", "mark"), [("sep=;", ";"), ("SEP=|", "|"), ("sep=\t", "\t")])
def test_the_first_line_of_excel_names_the_delimiter(line: str, mark: str) -> None:
    assert read(f"{line}\r\na,b{mark}c\r\n1{mark}2\r\n") == [["a,b", "c"], ["1", "2"]]


def test_long_cells() -> None:
    assert read("id,x\n1," + "y" * 3_000_000)[1][1] == "y" * 3_000_000


def test_short_and_long_rows_are_as_written() -> None:
    assert read("a,b\n1\n1,2,3\n") == [["a", "b"], ["1"], ["1", "2", "3"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'t.csv' is empty; wanted a table with a header"),
        ("\n \n", "is empty"),
        (",,\n1,2,3\n", "is empty"),
        ('a,b\n1,"open\n2,x\n', "row at line 2 opens a quote and never closes it"),
        ('a,"b\n1,2\n', "row at line 1 opens a quote"),
        ('a,b\n1,2\n3,"', "row at line 3 opens a quote"),
        (b"a,b\n1,\0\n", "line 2 is not text"),
        (b"\xff\xfea\0,\0b", "cannot be read: 'utf-16-le' codec"),
    ],
)
def test_what_is_no_table_is_one_line(text: str | bytes, message: str) -> None:
    with pytest.raises(MisuseError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_are_read_as_they_are_asked_for() -> None:
    stream = io.BytesIO(b"a,b\n" + b"1,2\n" * 1_000_000)
    rows = read_delimited(stream, "t.csv").rows
    next(rows)
    assert stream.tell() < 1_000_000
