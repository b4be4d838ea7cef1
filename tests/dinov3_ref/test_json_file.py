"""The reference's reader of JSON: the runtime's, with errors and kinds of its own."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from types import FunctionType

import pytest

import dinodeploy.files.json_file as original
import dinov3_ref.json_file as copy
from dinov3_ref.errors import CheckpointError, DataError
from dinov3_ref.json_file import parse_json, read_json

FUNCTIONS = [
    name
    for name, found in vars(original).items()
    if isinstance(found, FunctionType) and found.__module__ == original.__name__ and name != "read_json"
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_its_functions_are_those_of_the_runtime(name: str) -> None:
    """The packages may not import each other."""
    assert inspect.getsource(getattr(copy, name)) == inspect.getsource(getattr(original, name))


@pytest.mark.parametrize("name", ["MAX_DEPTH", "MAX_CONTAINERS", "_MAX_DIGITS", "_MAX_DECIMALS", "_HALF"])
def test_its_limits_are_those_of_the_runtime(name: str) -> None:
    assert getattr(copy, name) == getattr(original, name)


def test_errors_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"[" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json: not valid JSON: .* nested more than 64 deep"):
        read_json(tmp_path / "config.json", "config")
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, tmp_path / "absent.json"):
        with pytest.raises(DataError, match="cannot be read"):
            read_json(path, "config", DataError)


def test_a_log_may_hold_nan() -> None:
    assert str(parse_json('{"loss": NaN}', "log", "line")) == "{'loss': nan}"
    with pytest.raises(CheckpointError, match="NaN is not a JSON number"):
        parse_json('{"loss": NaN}', "log", "config")
