"""Write protobuf's text format, as far as a model configuration needs it.

Source: https://protobuf.dev/reference/protobuf/textformat-spec. Triton's own message class parses the
output in tests/dinodeploy/triton/test_repository.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


class Word(str):
    """An enumeration constant: a name without quotes."""

    __slots__ = ()


def pbtxt(message: Mapping[str, Any]) -> str:
    """A message as text. Lists are repeated fields; `entries` makes a map."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        values = value if isinstance(value, list) else [value]
        if values and all(not isinstance(one, Mapping) for one in values) and isinstance(value, list):
            yield f"{name}: [ {', '.join(map(_scalar, values))} ]"
            continue
        for one in values:
            if isinstance(one, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(one))
                yield "}"
            else:
                yield f"{name}: {_scalar(one)}"


def entries(mapping: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A protobuf map: one {key, value} per entry."""
    return [{"key": key, "value": value} for key, value in mapping.items()]


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)  # the text format knows all escapes of JSON
    return str(value)
