"""Strict parsing of JSON into dataclasses, and the way back."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest

from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files.schema import dump, parse, read


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.size[0] < 0:
            raise MisuseError(f"size {self.size}: wanted positive numbers")


@dataclasses.dataclass(frozen=True)
class Document:
    version: int
    scale: float
    kind: Literal["a", "b"]
    ready: bool
    rows: list[Row]
    mean: tuple[float, ...]
    hashes: dict[str, str]
    either: int | str
    note: str | None = None
    tags: list[str] = dataclasses.field(default_factory=list)


GOOD: dict[str, Any] = {
    "version": 1,
    "scale": 2,
    "kind": "a",
    "ready": True,
    "rows": [{"name": "x", "size": [3, 4]}],
    "mean": [0.5, 1],
    "hashes": {"model.onnx": "00"},
    "either": "text",
    "note": None,
    "tags": [],
}


def test_good_document_becomes_typed_values() -> None:
    document = parse(Document, GOOD, "m.json")
    assert document.rows == [Row("x", (3, 4))]
    assert document.mean == (0.5, 1.0)
    assert isinstance(document.scale, float)
    assert document.scale == 2.0
    assert (document.note, document.tags) == (None, [])


def test_dump_is_the_inverse_of_parse() -> None:
    document = parse(Document, GOOD, "m.json")
    text = json.dumps(dump(document), allow_nan=False)
    assert parse(Document, json.loads(text), "m.json") == document
    assert list(dump(document)) == [field.name for field in dataclasses.fields(Document)]


def test_defaults_may_be_left_out() -> None:
    data = {key: value for key, value in GOOD.items() if key not in ("note", "tags")}
    assert parse(Document, data, "m.json") == parse(Document, GOOD, "m.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": True}, "m.json: field 'version': got True, wanted int"),
        ({"version": 1.0}, "m.json: field 'version': got 1.0, wanted int"),
        ({"ready": 1}, "m.json: field 'ready': got 1, wanted bool"),
        ({"scale": "2"}, "m.json: field 'scale': got '2', wanted a finite number"),
        ({"scale": True}, "m.json: field 'scale': got True, wanted a finite number"),
        ({"scale": math.nan}, "m.json: field 'scale': got nan, wanted a finite number"),
        ({"scale": 10**400}, "wanted a finite number"),
        ({"mean": [math.inf]}, "m.json: field 'mean[0]': got inf, wanted a finite number"),
        ({"kind": "c"}, "m.json: field 'kind': got 'c', wanted 'a' or 'b'"),
        ({"note": 3}, "m.json: field 'note': got 3, wanted str"),
        ({"either": None}, "m.json: field 'either': got None, wanted int or str"),
        ({"rows": {}}, "m.json: field 'rows': got {}, wanted list[Row]"),
        ({"rows": [{"name": "x"}]}, "m.json: field 'rows[0].size': missing, wanted tuple[int, int]"),
        (
            {"rows": [{"name": "x", "size": [1]}]},
            "m.json: field 'rows[0].size': got [1], wanted tuple[int, int]",
        ),
        (
            {"rows": [{"name": "x", "size": [-1, 1]}]},
            "m.json: field 'rows[0]': size (-1, 1): wanted positive",
        ),
        ({"hashes": {"f": 1}}, "m.json: field 'hashes.f': got 1, wanted str"),
        ({"hashes": {"a\nb": 1}}, r"m.json: field 'hashes.a\nb': got 1, wanted str"),
        ({"mean": None}, "m.json: field 'mean': got None, wanted tuple[a finite number, ...]"),
        ({"extra": 1}, "m.json: field 'extra': unknown, wanted one of version, scale, kind"),
    ],
)
def test_wrong_value_is_one_line_that_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(Document, GOOD | change, "m.json")
    line = str(caught.value)
    assert "\n" not in line
    assert message in line
    assert len(line) < 300


def test_missing_field_and_wrong_top_level() -> None:
    data = {key: value for key, value in GOOD.items() if key != "kind"}
    with pytest.raises(BundleError, match="field 'kind': missing, wanted 'a' or 'b'"):
        parse(Document, data, "m.json")
    with pytest.raises(BundleError, match=r"field '\(top\)': got \[\], wanted Document"):
        parse(Document, [], "m.json")


def test_dump_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="nan"):
        dump(dataclasses.replace(parse(Document, GOOD, "m.json"), scale=math.nan))
    with pytest.raises(TypeError, match="dataclass"):
        dump({"a": 1})


def test_read_takes_a_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(GOOD))
    assert read(Document, path, "manifest") == parse(Document, GOOD, "m.json")
    with pytest.raises(BundleError, match=r"absent\.json: cannot be read: No such file"):
        read(Document, tmp_path / "absent.json", "manifest")
