"""Types of metadata columns: decided by all values, and never at the cost of one."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import pytest

from dinodeploy.search.column_types import from_arrow, from_json, from_text

pa = pytest.importorskip("pyarrow")
BERLIN = datetime.timezone(datetime.timedelta(hours=1))


def typed(cells: list[str]) -> tuple[str, list[Any]]:
    found = from_text(pa.chunked_array([pa.array(cells, pa.string())]))
    return found.kind, found.values.to_pylist()


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "-17", "0", ""], "integer", [1, -17, 0, None]),
        (["9007199254740993", "9223372036854775807"], "integer", [2**53 + 1, 2**63 - 1]),
        (["0.5", "3", "1e-07", "-0.25"], "real", [0.5, 3.0, 1e-7, -0.25]),
        (["1.50", "2.00", "10.25"], "real", [1.5, 2.0, 10.25]),
        (["1", "NA", "n", ""], "text", ["1", "NA", "n", None]),
        (["1", "NA", ""], "integer", [1, None, None]),
        (["true", "false", ""], "boolean", [True, False, None]),
        (["True", "False"], "boolean", [True, False]),
        (["FALSE", "TRUE", "null"], "boolean", [False, True, None]),
        (["", ""], "text", [None, None]),
        (["NA", "NA"], "text", ["NA", "NA"]),
        (["2024-01-31", "2024-02-01"], "text", ["2024-01-31", "2024-02-01"]),
        (["2024-01-31T12:00:00Z"], "text", ["2024-01-31T12:00:00Z"]),
    ],
)
def test_cells_of_one_kind(cells: list[str], kind: str, values: list[Any]) -> None:
    assert typed(cells) == (kind, values)


@pytest.mark.parametrize(
    "odd",
    [
        "0034", "1e5", "inf", "-inf", "true", "+1", "1_000", "00", "-0", "01.5", "1.", ".5", "1,5", " 1",
        "1 ", "0x1f", "1E-07", "1e400", "18446744073709551616", "-9223372036854775809", "9" * 5000,
        "0.1000000000000000055", "١", "1-2", "t", "yes", "None", "2.50", "1e-7", "-0.0000",
    ],
)  # fmt: skip
def test_one_odd_cell_keeps_the_whole_column_text(odd: str) -> None:
    """Also if it is the last of many, beyond any sample that a reader might take."""
    cells = [*("1" for _ in range(70_000)), "7", odd]
    assert typed(cells) == ("text", cells)
    alone = typed([odd])
    assert alone == ("text", [odd]) or (odd in ("true", "2.50", "-0.0000", "0.1000000000000000055"))


@pytest.mark.parametrize(
    "cells", [["1.9", "1.10"], ["9007199254740993", "0.5"], ["true", "False"], ["true", "1"]]
)
def test_mixtures_are_text(cells: list[str]) -> None:
    assert typed(cells) == ("text", cells)


def test_notes_say_why() -> None:
    code = from_text(pa.chunked_array([["12", "0034"]]))
    assert code.note == "is text: as a number, '0034' would not be kept as written"
    assert from_text(pa.chunked_array([["cat", "dog"]])).note == ""
    assert from_text(pa.chunked_array([["1", "NA"]])).note == "'NA' are missing values"


@pytest.mark.parametrize(
    ("values", "kind", "kept"),
    [
        ([1, None, -5], "integer", [1, None, -5]),
        ([1, 0.5], "real", [1.0, 0.5]),
        ([True, None], "boolean", [True, None]),
        (["0034", "1"], "text", ["0034", "1"]),
        (["0034", 34, True, 0.5], "text", ["0034", "34", "true", "0.5"]),
        ([2**63], "text", [str(2**63)]),
        ([2**53 + 1, 0.5], "text", [str(2**53 + 1), "0.5"]),
        ([1, float("inf")], "text", ["1", "Infinity"]),
        ([None], "text", [None]),
    ],
)
def test_json_values(values: list[Any], kind: str, kept: list[Any]) -> None:
    found = from_json(values)
    assert found is not None
    assert (found.kind, found.values.to_pylist()) == (kind, kept)


def test_json_arrays_and_objects_are_not_supported() -> None:
    assert from_json([1, [2]]) is None
    assert from_json([{}]) is None


@pytest.mark.parametrize(
    ("array", "kind", "kept"),
    [
        (pa.array([2**63], pa.uint64()), "text", [str(2**63)]),
        (pa.array([2**63 - 1, None], pa.uint64()), "integer", [2**63 - 1, None]),
        (pa.array([decimal.Decimal("1.25"), None]), "real", [1.25, None]),
        (pa.array([decimal.Decimal("7.10"), decimal.Decimal("0.30")]), "real", [7.1, 0.3]),
        (pa.array([datetime.datetime(2024, 1, 1, tzinfo=BERLIN)]), "text", ["2023-12-31 23:00:00.000000Z"]),
        (pa.array([decimal.Decimal("7"), decimal.Decimal("8")]), "integer", [7, 8]),
        (pa.array([decimal.Decimal("0.1234567890123456789")]), "text", ["0.1234567890123456789"]),
        (pa.array([1.5, float("inf"), float("nan")]), "real", [1.5, None, None]),
        (pa.array(["0034"], pa.large_string()), "text", ["0034"]),
        (pa.array([datetime.date(2024, 2, 1)]), "text", ["2024-02-01"]),
        (pa.array([datetime.time(12, 30)]), "text", ["12:30:00.000000"]),
    ],
)
def test_typed_columns(array: Any, kind: str, kept: list[Any]) -> None:
    found = from_arrow(pa.chunked_array([array]))
    assert found is not None
    assert (found.kind, found.values.to_pylist()) == (kind, kept)


def test_types_that_filters_do_not_support() -> None:
    durations, far = pa.array([datetime.timedelta(1)]), pa.array([2**40], pa.timestamp("s"))
    for array in (pa.array([b"x"]), pa.array([[1]]), pa.array([{"a": 1}]), durations, far):
        assert from_arrow(pa.chunked_array([array])) is None
