"""Read JSON files within limits: the only place of this package that parses JSON.

The reference imports nothing of the runtime, so this is its own copy of `dinodeploy/files/json_file.py`.
The docstring there lists what is refused; a test compares the functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from dinov3_ref.errors import CheckpointError as DefaultError
from dinov3_ref.errors import reason_of


@dataclass(frozen=True)
class Kind:
    """What a kind of document may hold."""

    bytes: int
    file_names: bool = False  # also names that are not Unicode, as Python reads them (PEP 383)
    nonfinite: bool = False  # also NaN and infinity, which our own training log writes


MIB = 1 << 20
KINDS: dict[str, Kind] = {
    "config": Kind(16 * MIB),  # beside a checkpoint, and the index of its shards
    "metadata": Kind(16 * MIB),  # inside a file of weights or a table
    "state": Kind(64 * MIB, nonfinite=True),  # of a training run
    "true labels": Kind(64 * MIB),  # of the images of a test set
    "line": Kind(MIB, file_names=True, nonfinite=True),  # of a JSON Lines file
}
MAX_DEPTH = 64  # our own documents: 8
MAX_CONTAINERS = 1_000_000  # arrays and objects; one takes 56 bytes of memory or more, and two of the text
_MAX_DIGITS = 20  # of a 64-bit integer, with its sign
_MAX_DECIMALS = 1100  # of a double, written in full
_SHOWN = 60  # characters of a key shown in a message
_NO_STRUCTURE = bytes(sorted(set(range(256)) - set(b'"[]{}')))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_BOM = b"\xef\xbb\xbf"

Error = Callable[[str], Exception]


def read_json(path: Path, kind: str, error: Error = DefaultError) -> Any:
    """Parse a JSON file of one of `KINDS`. Raises `error`, one line."""
    try:
        if path.exists() and not path.is_file():  # opening a FIFO would block
            raise OSError("not a regular file")
        with path.open("rb") as file:
            data = file.read(KINDS[kind].bytes + 1)
    except OSError as failure:
        raise error(f"{path}: cannot be read: {reason_of(failure)}") from failure
    return parse_json(data, str(path), kind, error)


def parse_json(text: bytes | str, where: str, kind: str, error: Error = DefaultError) -> Any:
    """Parse the text of one of `KINDS`; `where` names it in messages. Raises `error`, one line."""
    try:
        return _parse(text.encode() if isinstance(text, str) else text, kind)
    except ValueError as failure:  # of the parser and of Unicode too
        raise error(f"{where}: not valid JSON: {failure}") from failure


def _parse(data: bytes, kind: str) -> Any:
    if len(data) > KINDS[kind].bytes:
        raise ValueError(f"more than {KINDS[kind].bytes:,} bytes, the limit for this kind of document")
    data = data.removeprefix(_BOM)
    text = data.decode()
    _check_structure(data)
    value = _decoder(KINDS[kind].nonfinite).decode(text)
    if _HALF.search(text):
        _check_strings(value, "surrogateescape" if KINDS[kind].file_names else "strict")
    return value


def _check_structure(data: bytes) -> None:
    """Raises ValueError for too many or too deep arrays and objects, before anything recurses into them."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(unescaped.translate(None, _NO_STRUCTURE).split(b'"')[::2])  # of strings
    if outside.count(b"[") + outside.count(b"{") > MAX_CONTAINERS:
        raise ValueError(f"more than {MAX_CONTAINERS:,} arrays and objects")
    if max(accumulate(map(_STEP.__getitem__, outside)), default=0) > MAX_DEPTH:
        raise ValueError(f"arrays and objects are nested more than {MAX_DEPTH} deep")


@cache
def _decoder(nonfinite: bool) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_unique_members,
        parse_int=_integer,
        parse_float=_number,
        parse_constant=float if nonfinite else _refuse_constant,
    )


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:_SHOWN]!r} is given twice")
            seen.add(key)
    return members


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(text):,} digits; wanted at most 64 bits")
    return int(text)


def _number(text: str) -> float:
    value = float(text) if len(text) <= _MAX_DECIMALS else float("inf")
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:_SHOWN]} is too large or too long")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _check_strings(value: Any, errors: str) -> None:
    """Raises ValueError for a string that cannot be encoded: it would fail wherever it is written."""
    for text in _strings(value):
        try:
            text.encode("utf-8", errors)
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the string {text[:_SHOWN]!a} has half a character (a lone surrogate)"
            ) from error


def _strings(value: Any) -> Iterator[str]:
    ahead = [value]
    while ahead:
        one = ahead.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            yield from one
            ahead += one.values()
        elif isinstance(one, list):
            ahead += one
