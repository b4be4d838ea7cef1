"""The filter language: results on a real table, invalid filters, and SQL injection."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.search.filters import Kind, contains_sql, filter_sql

pa = pytest.importorskip("pyarrow")
lance = pytest.importorskip("lance")

KINDS: dict[str, Kind] = {
    "id": "text",
    "width": "integer",
    "score": "real",
    "ok": "boolean",
    "taken on": "text",
    'a "b"': "text",
}
ROWS: dict[str, list[Any]] = {
    "id": ["a", "it's\\ \n😀", 'C%_"x', "ΟΔΟΣ"],
    "width": [1, 640, None, 2**53 + 1],
    "score": [0.5, -1e300, 3.0, None],
    "ok": [True, False, None, True],
    "taken on": ["2024-01-31", "2024-02-01", None, "2023-12-31"],
    'a "b"': ["x", "y", "z", ""],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lance.write_dataset(pa.table(ROWS), str(tmp_path_factory.mktemp("lance") / "t.lance"))


def rows(table: Any, sql: str) -> list[int]:
    ids = table.to_table(columns=["id"], filter=sql)["id"].to_pylist()
    return [ROWS["id"].index(id_) for id_ in ids]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("width > 1", [1, 3]),
        ("width>=640 AND ok = FALSE", [1]),
        ("width = 9007199254740993", [3]),  # beyond the integers that float64 represents exactly
        ("width > 1.5 and width < 1e4", [1]),
        ("width < 99999999999999999999", [0, 1, 3]),
        ("score > -1e999", [0, 1, 2]),
        ("score = 3", [2]),
        ("score < -.5 or score = +3.", [1, 2]),
        ("width is null", [2]),
        ("not (width is not null)", [2]),
        ("width in (1, 640)", [0, 1]),
        ("width not in (1)", [1, 3]),  # null is neither in nor out
        ("width between 2 and 640 and ok = false or id = 'a'", [0, 1]),
        ("width not between 2 and 640", [0, 3]),
        ("id = 'it''s\\ \n😀'", [1]),
        ("""id = "C%_""x\"""", [2]),
        ("id like 'C%'", [2]),
        ("id not like 'C%'", [0, 1, 3]),
        ("\"taken on\" between '2024-01-01' and '2024-12-31'", [0, 1]),
        ("`taken on` < '2024'", [3]),
        ('"a ""b""" <> \'x\'', [1, 2, 3]),
        ("not not ok = true", [0, 3]),
        ("ok == true and (id = 'a' or id = 'b')", [0]),
        ("id = ''' OR 1=1 --'", []),
        ("not " * 49 + "width > 1", [0]),
        ("not (" * 25 + "width is null" + ")" * 25, [0, 1, 3]),
        ("not (width > 1 and ok = true)", [0, 1]),  # true or unknown is true, false or unknown is unknown
        ("not (width in (1, 1.5) or score < 0)", []),
        ("not (width = 640 or id like 'C%')", [0, 3]),
        ("not (width < 2 or width >= 641)", [1]),
        ("not (width <= 1) and not width != 640", [1]),
        ("not width not between 1 and 640", [0, 1]),
        ("not width not in (1, 640.0)", [0, 1]),
        ("not ok = true", [1]),
        ("width in (1, 640.5, 640)", [0, 1]),
    ],
)
def test_matching_rows(table: Any, text: str, found: list[int]) -> None:
    assert rows(table, filter_sql(text, KINDS)) == found


@pytest.mark.parametrize(
    ("word", "found"),
    [("A", [0]), ("%", [2]), ("_", [2]), ("οδο", [3]), ("'S\\", [1]), ("😀", [1]), ("2024", []), ('"X', [2])],
)
def test_word_search_has_no_wildcards(table: Any, word: str, found: list[int]) -> None:
    assert rows(table, contains_sql(word, ["id"])) == found


def test_word_search_covers_all_given_columns(table: Any) -> None:
    assert rows(table, contains_sql("2024", ["id", "taken on"])) == [0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got the end, wanted the name of a column"),
        ("   ", "got the end"),
        ("width >", "got the end, wanted a number, as 'width' is"),
        ("width > 'a'", "got \"'a'\", wanted a number"),
        ("width 5", "got '5', wanted =, =="),
        ("width like '5'", "got \"like '5'\", wanted"),
        ("width not 5", "got '5', wanted in, between"),
        ("id = 5", "wanted a text in quotes, as 'id' is"),
        ("id = x", "wanted a text in quotes"),
        ("ok = 1", "wanted true or false"),
        ("ok", "got the end, wanted ="),
        ("1 = 1", "got '1 = 1', wanted the name of a column"),
        ("height > 3", "there is no column 'height'; wanted one of id, width"),
        ("Width > 3", "there is no column 'Width'"),
        ("width > 3; drop table images", "'; drop table images' is not valid"),
        ("width > 3 -- x", "'-- x' is not valid"),
        ("width > 3 union select 1", "got 'union select 1', wanted 'and', 'or' or the end"),
        ("width > 3 or", "got the end, wanted the name of a column"),
        ("(width > 3", "got the end, wanted ')'"),
        ("width > 3)", "got ')', wanted 'and', 'or' or the end"),
        ("width in ()", "got ')', wanted a number"),
        ("width in (1 2)", "got '2)', wanted ',' or ')'"),
        ("width in 1", "got '1', wanted '('"),
        ("width is 5", "got '5', wanted 'null'"),
        ("width between 1", "got the end, wanted 'and'"),
        ("id = 'open", "is not valid"),
        ("width > 5px", "is not valid"),
        ("and > 3", "wanted the name of a column"),
        ("length(id) > 1", "there is no column 'length'"),
        ("id = lower('A')", "got \"lower('A')\", wanted a text"),
        ("1 = 1 or width > 3", "wanted the name of a column"),
        ("_rowid > 0", "there is no column '_rowid'"),
        ("id in (select id from images)", "got 'select id from images)', wanted a text"),
        ("width > 3 /* x */", "'/* x */' is not valid"),
        ("(" * 80 + "width > 3", "more than 50 nested brackets"),
        ("not " * 5000 + "width > 3", "more than 50 nested brackets"),
    ],
)
def test_invalid_filters_and_injection(text: str, words: str) -> None:
    with pytest.raises(MisuseError) as caught:
        filter_sql(text, KINDS)
    assert words in str(caught.value)


def test_an_empty_word_and_a_very_long_one_are_refused() -> None:
    with pytest.raises(MisuseError, match="empty"):
        contains_sql("", ["id"])
    with pytest.raises(MisuseError, match="has 4,097 characters; wanted at most 4,096"):
        contains_sql("x" * 4097, ["id"])


def nested(depth: int) -> str:
    """`depth` levels, alternating between `and` and `or`."""
    text = "width > 0"
    for level in range(depth):
        text = f"({text} {'and' if level % 2 else 'or'} width = {level})"
    return text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("width > 1 or " * 6000 + "width > 1", "has 78,009 characters; wanted at most 65,536"),
        ("width>1 or " * 1000 + "width>1", "more than 1,000 comparisons"),
        (f"width in ({','.join('1' * 10_001)})", "more than 10,000 values in lists"),
        (nested(17), "more than 16 levels of `and` inside `or`"),
        (f"id like '{'%a' * 3000}'", "a pattern of 6,002 characters; wanted at most 4,096"),
        ("width > " + "1" * 60_000 + "x", "is not valid"),
        ("width > " + "1" * 30_000 + "." + "1" * 30_000 + "e", "is not valid"),
        (" " * 60_000 + "!", "is not valid"),
        ("id = '" + "''" * 30_000, "is not valid"),
        ("(" * 60_000, "more than 50 nested brackets"),
        ("width in (" + "1.5," * 1000 + "1)", "more than 1,000 comparisons"),
    ],
)
def test_limits_are_found_in_milliseconds(text: str, words: str) -> None:
    started = time.thread_time()
    with pytest.raises(MisuseError) as caught:
        filter_sql(text, KINDS)
    assert words in str(caught.value)
    assert time.thread_time() - started < 0.5  # measured: 0.02


@pytest.mark.parametrize(
    "text",
    [
        "not " * 50 + "width > 1",
        "not (" * 25 + "width > 1" + ")" * 25,
        "(" * 50 + "width > 1" + ")" * 50,
        "(not (" * 16 + "width > 1 or ok = true" + "))" * 16,
        nested(16),
        f"not ({nested(16)})",
        "width>1 or " * 999 + "width>1",
        f"width in ({','.join('1' * 10_000)})",
        "width in (" + "1.5," * 998 + "1)",
        f"id like '{'%a' * 2000}'",
        f"id like '{'_' * 4000}'",
        f"id = '{chr(0)}'",
        "id = '\udc80' or id like '\ud800%'",
        "width > " + "9" * 60_000,
        "score > " + "1" * 30_000 + ".5e-9999999",
    ],
)
def test_whatever_is_within_the_limits_is_fast_in_lance_too(table: Any, text: str) -> None:
    started = time.process_time()
    table.count_rows(filter_sql(text, KINDS))
    assert time.process_time() - started < 2  # measured: 0.1


def test_a_column_name_cannot_inject_sql(tmp_path: Path) -> None:
    name = "x = 1 OR id"
    table = lance.write_dataset(pa.table({"id": ["a", "b"], name: ["1", "2"]}), str(tmp_path / "t.lance"))
    assert table.count_rows(filter_sql(f"\"{name}\" = '1'", {name: "text"})) == 1
