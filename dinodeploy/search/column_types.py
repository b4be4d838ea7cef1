"""The type of a metadata column, decided by all of its values.

    CSV       text, unless every cell is the number or the boolean as it would be written again:
              integer   0, -17, up to 64 bits; never 0034, +1, 1_000
              real      0.5, 1e-07, all with the same number of decimals (1.50, 2.00) or each in its shortest
                        form; never inf, 1e5, or a mixture such as the versions 1.9 and 1.10
              boolean   true and false; True and False; TRUE and FALSE
              An empty cell is a missing value; so are NA, N/A, NaN, nan, null and NULL beside numbers.
    JSON      as written: a text stays a text; a column of several kinds is text
    Parquet   as its type says; numbers that neither int64 nor float64 holds exactly become text, dates and
              times text that sorts chronologically (UTC), NaN and infinity missing values

Columns of lists, structures, bytes and durations are not supported.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from dinodeploy.search.filters import Kind

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, DataType

INT64 = range(-(2**63), 2**63)
_MISSING = ("NA", "N/A", "NaN", "nan", "null", "NULL")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_REAL = re.compile(r"-?(?:0|[1-9][0-9]{0,399})(?:\.([0-9]{1,400}))?(?:e[+-][0-9]{2,3})?")
_BOOLEANS = ({"true", "false"}, {"True", "False"}, {"TRUE", "FALSE"})


@dataclass(frozen=True)
class TypedColumn:
    """The kind of a column and its values of that kind. note: what a reader might not expect, or empty."""

    kind: Kind
    values: ChunkedArray
    note: str = ""


def from_text(column: ChunkedArray) -> TypedColumn:
    """A column of CSV cells."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    distinct: list[str] = pc.unique(column).drop_null().to_pylist()
    values = [value for value in distinct if value not in _MISSING]
    kind, odd = _kind_of(values)
    if kind == "text":
        return TypedColumn("text", column, _would_change(odd) if _is_number(odd) else "")
    marks = [value for value in distinct if value in _MISSING]
    note = f"{' and '.join(map(repr, marks))} are missing values" if marks else ""
    if marks:
        is_mark = pc.is_in(column, value_set=pa.array(marks, pa.string()))
        column = pc.if_else(is_mark, pa.scalar(None, pa.string()), column)
    if kind == "boolean":
        return TypedColumn(kind, pc.equal(pc.utf8_lower(column), "true"), note)
    return TypedColumn(kind, column.cast(_arrow_type(kind)), note)


def from_json(values: Sequence[Any]) -> TypedColumn | None:
    """A column of JSON values; None if it holds arrays or objects."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds - {bool, int, float, str}:
        return None
    kind: Kind = "text"
    note = ""
    if kinds == {bool}:
        kind = "boolean"
    elif kinds == {int} and all(value in INT64 for value in values if value is not None):
        kind = "integer"
    elif float in kinds and kinds <= {int, float} and all(map(_is_exact, values)):
        kind = "real"
        values = [None if value is None else float(value) for value in values]
    elif kinds - {str}:
        note = "is text: it holds values of several kinds, or numbers beyond 64 bits"
        values = [_as_text(value) for value in values]
    return TypedColumn(kind, pa.chunked_array([pa.array(values, _arrow_type(kind))]), note)


def from_arrow(column: ChunkedArray) -> TypedColumn | None:
    """A column of a typed table; None for a type that filters do not support."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    of: DataType = column.type
    if types.is_dictionary(of):
        return from_arrow(column.cast(of.value_type))
    if isinstance(of, pa.BaseExtensionType):
        return from_arrow(pa.chunked_array([chunk.storage for chunk in column.chunks], of.storage_type))
    column.validate(full=True)  # text that is not UTF-8
    if types.is_boolean(of):
        return TypedColumn("boolean", column)
    if types.is_floating(of):
        reals = column.cast(pa.float64())
        finite = pc.if_else(pc.is_finite(reals), reals, pa.scalar(None, pa.float64()))
        endless = pc.sum(pc.is_inf(reals)).as_py()
        return TypedColumn("real", finite, f"{endless} infinite values are missing values" if endless else "")
    if types.is_integer(of) or types.is_decimal(of):
        return _from_exact(column)
    if types.is_string(of) or types.is_large_string(of) or types.is_null(of) or str(of) == "string_view":
        return TypedColumn("text", column.cast(pa.string()))
    if types.is_date(of) or types.is_time(of) or types.is_timestamp(of):
        if types.is_timestamp(of) and of.tz is not None:
            column = column.cast(pa.timestamp(of.unit, "UTC"))  # local times repeat in autumn
        texts = column.cast(pa.string())
        beyond = pc.any(pc.starts_with(texts, "<")).as_py()  # Arrow's word for a date beyond its calendar
        return None if beyond else TypedColumn("text", texts)
    return None


def _from_exact(column: ChunkedArray) -> TypedColumn:
    """Integers and decimals: the narrowest kind that changes no value."""
    import pyarrow as pa

    try:
        return TypedColumn("integer", column.cast(pa.int64()))
    except ValueError:
        values = column.unique().drop_null().to_pylist()
        if all(Decimal(repr(float(value))) == value for value in values):
            exact = column.cast(pa.string()).cast(
                pa.float64()
            )  # a direct cast of 7.10 gives 7.1000000000000005
            return TypedColumn("real", exact)
        return TypedColumn("text", column.cast(pa.string()), _would_change(str(max(values, key=abs))))


def _kind_of(values: Sequence[str]) -> tuple[Kind, str | None]:
    """The kind of cells that are not empty; for text, the first value that is no number of one kind."""
    if not values:
        return "text", None
    if any(set(values) <= pair for pair in _BOOLEANS):
        return "boolean", None
    odd = _first_not(_is_integer, values)
    if odd is None:
        return "integer", None
    odd = _first_not(_is_shortest, values)
    if odd is None or _has_equal_decimals(values):
        return "real", None
    return "text", odd


def _first_not(test: Callable[[str], bool], values: Iterable[str]) -> str | None:
    return next((value for value in values if not test(value)), None)


def _is_integer(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None and int(text) in INT64


def _is_shortest(text: str) -> bool:
    """Whether `text` is what Python writes for its float64, or an integer that float64 holds exactly."""
    if not _REAL.fullmatch(text):
        return False
    value = float(text)
    return math.isfinite(value) and (repr(value) == text or (_is_integer(text) and int(value) == int(text)))


def _has_equal_decimals(values: Sequence[str]) -> bool:
    """Whether all values have the same number of decimals and float64 gives each of them back."""
    found = [_REAL.fullmatch(value) for value in values]
    places = {len(match[1]) if match and match[1] else 0 for match in found}
    if len(places) > 1 or not (count := places.pop()):
        return False
    return all(f"{float(value):.{count}f}" == value for value in values)


def _is_number(text: str | None) -> bool:
    """Whether Python reads `text` as a number, as other readers of tables do."""
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def _is_exact(value: float | None) -> bool:
    return value is None or (math.isfinite(value) and (type(value) is float or float(value) == value))


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _would_change(value: str | None) -> str:
    return f"is text: as a number, {value!r} would not be kept as written"


def _arrow_type(kind: Kind) -> DataType:
    import pyarrow as pa

    return {"text": pa.string(), "integer": pa.int64(), "real": pa.float64(), "boolean": pa.bool_()}[kind]
