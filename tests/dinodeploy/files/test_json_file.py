"""The only reader of JSON: its limits, and that nothing else parses JSON."""

from __future__ import annotations

import ast
import os
import time
from pathlib import Path

import pytest

from dinodeploy.errors import BundleError, TamperedError
from dinodeploy.files.json_file import KINDS, MAX_CONTAINERS, MAX_DEPTH, parse_json, read_json

ROOT = Path(__file__).parents[3]
PARSERS = {"load", "loads", "JSONDecoder", "raw_decode"}
LIMIT_SECONDS = 2.0  # measured: at most 0.3; the quadratic search for repeated keys took 36
MANY = "".join(f'"key number {index}": 0,' for index in range(40_000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON: Expecting value"),
        (b'{"a": 1}{', "not valid JSON: Extra data"),
        (b'{"a": 1, "a": 2}', "key 'a' is given twice"),
        (b'[{"x": {"a": 1, "b": 2, "a": 1}}]', "key 'a' is given twice"),
        (b'{"\\u0061": 1, "a": 2}', "key 'a' is given twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b"-1" + b"0" * 400 + b".5", "is too large"),
        (b"0." + b"1" * 10_000, "is too large or too long"),
        (b"9" * 10_000, "an integer of 10,000 digits"),
        (b"9" * 21, "an integer of 21 digits"),
        (b"\xff\xfe\xff", "not valid JSON"),
        ('{"a": 1}'.encode("utf-16"), "not valid JSON"),
        ('{"a": 1}'.encode("utf-32"), "not valid JSON"),
        (b'"caf\xe9"', "not valid JSON"),
        (b'"\xed\xa0\x80"', "not valid JSON"),  # half a character as CESU-8 has it
        (b'["\\ud800"]', "half a character"),
        (b'{"\\uDFFF": 1}', "half a character"),
        (b'["\\ude00\\ud83d"]', "half a character"),
        ('["\ud800"]', "not valid JSON"),
        (b'"a\nb"', "not valid JSON"),
        (b"[" * 100_000, "nested more than 64 deep"),
        (b'{"a":' * 100_000, "nested more than 64 deep"),
        (b'["\\\\",' + b"[" * 100_000, "nested more than 64 deep"),
        (b'["\\"",' + b"[" * 100_000, "nested more than 64 deep"),
        (b"[" + b"[]," * MAX_CONTAINERS + b"[]]", "more than 1,000,000 arrays and objects"),
    ],
)
def test_text_that_is_not_strict_json_is_one_line(text: bytes | str, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse_json(text, "m.json", "manifest")
    assert str(caught.value).startswith("m.json: not valid JSON: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"\xef\xbb\xbf[1]", [1]),
        (b'["\\ud83d\\ude00"]', ["😀"]),
        (b'["\\\\ud800"]', [r"\ud800"]),
        (b"[18446744073709551615, -9223372036854775808, 1e308, -0.5]", [2**64 - 1, -(2**63), 1e308, -0.5]),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, None),
        (b'["' + b"[{" * 1000 + b'\\"' + b"[" * 1000 + b'"]', None),
        (b"[" + b"[]," * 1000 + b"[]]", [[]] * 1001),
        ("[true, null]", [True, None]),
    ],
)
def test_what_the_limits_allow(text: bytes | str, value: object) -> None:
    found = parse_json(text, "m.json", "manifest")
    assert value is None or found == value


@pytest.mark.parametrize(
    "text",
    [
        f'{{{MANY}"x": 1, "x": 2}}',
        f'{{"x": 1,{MANY}"x": 2}}',
        f'{{{MANY}"key number 39999": 2}}',
        f"[{{{MANY}" + "[" * 1000,
        '{"a":' + '"' + "\\\\" * 2_000_000 + '"' + "[" * 1000,
        '["' + '\\"' * 2_000_000 + "[" * 1000,
        '["' + "\\ud83d\\ude00" * 200_000 + '\\ud83d"]',
    ],
    ids=["last", "first", "repeated", "deep", "backslashes", "quotes", "halves"],
)
def test_refusing_takes_linear_time(text: str) -> None:
    started = time.process_time()
    with pytest.raises(BundleError):
        parse_json(text, "m.json", "manifest")
    assert time.process_time() - started < LIMIT_SECONDS


def test_each_kind_has_its_size(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.write(b"[1")
        file.truncate(KINDS["receipts"].bytes + 1)
    with pytest.raises(BundleError, match=r"large\.json: not valid JSON: more than 4,194,304 bytes"):
        read_json(path, "receipts")
    with pytest.raises(BundleError, match="Expecting"):
        read_json(path, "manifest")


def test_names_of_files_need_not_be_unicode() -> None:
    text = b'["caf\\udce9.jpg"]'
    assert parse_json(text, "x", "line") == ["caf\udce9.jpg"]
    with pytest.raises(BundleError, match="half a character"):
        parse_json(text, "x", "manifest")
    with pytest.raises(BundleError, match="half a character"):
        parse_json(b'["caf\\ud800.jpg"]', "x", "line")


def test_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, tmp_path / "absent.json"):
        with pytest.raises(TamperedError, match="cannot be read"):
            read_json(path, "manifest", TamperedError)


def parsing_in(path: Path) -> list[str]:
    """Uses of a JSON parser in a module, whatever they are imported as."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
        if module.partition(".")[0] in ("json", "orjson") and module != "json.encoder":
            assert isinstance(node, ast.ImportFrom)
            found += [f"{path}: from json import {alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            found += [f"{path}: json as {a.asname}" for a in node.names if a.name == "json" and a.asname]
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "json" and node.attr in PARSERS:
            found.append(f"{path}: {ast.unparse(node)}")
    return found


def test_nothing_else_parses_json() -> None:
    packages = ("dinodeploy", "dinov3_ref", "exporters")
    own = {ROOT / "dinodeploy/files/json_file.py", ROOT / "dinov3_ref/json_file.py"}
    modules = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert {path for path in modules if parsing_in(path)} == own
