"""Strict JSON to frozen dataclasses and back, guided by type hints.

Every JSON file of a bundle or store is read through `read` (`json_file.py` parses it), so a typo, a missing
key or a wrong type is one line that names the field, and not a KeyError later.

    hint                        JSON
    str, int, float, bool       the same; a float field also takes an integer, never NaN or infinity
    None, X | None              null
    Literal["a", "b"]           one of the values
    list[X], tuple[X, ...]      array
    tuple[X, Y]                 array of exactly two
    dict[str, X]                object with any keys
    Any                         anything
    a dataclass                 object with exactly its fields; those with a default may be left out
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.files.json_file import read_json

T = TypeVar("T")

_NAMES = {type(None): "null", float: "a finite number", Ellipsis: "..."}
_SHOWN = 60  # characters of a wrong value shown in a message


def read(cls: type[T], path: Path, kind: str) -> T:
    """Read a JSON file of one of `json_file.KINDS` into the dataclass `cls`. Raises BundleError, one line."""
    return parse(cls, read_json(path, kind), str(path))


def parse(cls: type[T], data: object, where: str) -> T:
    """Build the dataclass `cls` from parsed JSON; `where` names the file in messages.

    Raises BundleError, one line: the field, what it holds, what it should hold.
    """
    value: T = _parse(cls, data, where, "")
    return value


def dump(instance: Any) -> dict[str, Any]:
    """The inverse of `parse`: plain JSON values, fields in the order of the class.

    Raises ValueError for NaN and infinity, TypeError for a type outside the table.
    """
    if not dataclasses.is_dataclass(instance) or isinstance(instance, type):
        raise TypeError(f"dump wants an instance of a dataclass, got {type(instance).__name__}")
    return {field.name: _dump(getattr(instance, field.name)) for field in dataclasses.fields(instance)}


def _parse(hint: Any, data: object, where: str, path: str) -> Any:
    if hint is Any:
        return data
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _parse_union(hint, data, where, path)
    if origin is Literal:
        if not any(data == value and type(data) is type(value) for value in get_args(hint)):
            raise _wrong(where, path, data, hint)
        return data
    if origin is list:
        (item,) = get_args(hint)
        return [_parse(item, value, where, at) for at, value in _items(data, where, path, hint)]
    if origin is tuple:
        return _parse_tuple(hint, data, where, path)
    if origin is dict:
        _, item = get_args(hint)
        members = _members(data, where, path, hint)
        return {key: _parse(item, value, where, _join(path, key)) for key, value in members.items()}
    if dataclasses.is_dataclass(hint):
        return _parse_dataclass(hint, data, where, path)
    return _parse_scalar(hint, data, where, path)


def _parse_scalar(hint: Any, data: Any, where: str, path: str) -> Any:
    if hint is float and type(data) in (int, float):
        try:
            number = float(data)
        except OverflowError:  # an integer that is too large for a double
            number = math.inf
        if not math.isfinite(number):
            raise _wrong(where, path, data, hint)
        return number
    if hint is None or hint is type(None):
        matches = data is None
    else:
        assert hint in (str, int, float, bool), f"schema has no rule for the hint {hint!r}"
        matches = type(data) is hint  # `type is`, because True is an instance of int
    if not matches:
        raise _wrong(where, path, data, hint)
    return data


def _parse_union(hint: Any, data: object, where: str, path: str) -> Any:
    """`X | None` reports X's own error; any other union tries its members in order."""
    choices = get_args(hint)
    if type(None) in choices and data is None:
        return None
    others = [choice for choice in choices if choice is not type(None)]
    if len(others) == 1:
        return _parse(others[0], data, where, path)
    for choice in others:
        try:
            return _parse(choice, data, where, path)
        except BundleError:
            continue
    raise _wrong(where, path, data, hint)


def _parse_tuple(hint: Any, data: object, where: str, path: str) -> tuple[Any, ...]:
    hints = get_args(hint)
    items = _items(data, where, path, hint)
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(items)
    if len(items) != len(hints):
        raise _wrong(where, path, data, hint)
    return tuple(_parse(item, value, where, at) for item, (at, value) in zip(hints, items, strict=True))


def _parse_dataclass(cls: Any, data: object, where: str, path: str) -> Any:
    members = _members(data, where, path, cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in members:
        if key not in fields:
            raise BundleError(
                f"{where}: field {_join(path, key)!r}: unknown, wanted one of {', '.join(fields)}"
            )
    hints = _hints(cls)
    values = {}
    for name, field in fields.items():
        if name in members:
            values[name] = _parse(hints[name], members[name], where, _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise BundleError(f"{where}: field {_join(path, name)!r}: missing, wanted {_name(hints[name])}")
    try:
        return cls(**values)
    except MisuseError as error:  # the class validates itself when created
        raise BundleError(f"{where}: field {path or '(top)'!r}: {error}") from error


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _items(data: object, where: str, path: str, hint: Any) -> list[tuple[str, object]]:
    """The members of a JSON array, each with its own path."""
    if not isinstance(data, (list, tuple)):
        raise _wrong(where, path, data, hint)
    return [(f"{path}[{index}]", value) for index, value in enumerate(data)]


def _members(data: object, where: str, path: str, hint: Any) -> Mapping[str, object]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise _wrong(where, path, data, hint)
    return data


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(where: str, path: str, data: object, hint: Any) -> BundleError:
    shown = repr(data)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}..."
    return BundleError(f"{where}: field {path or '(top)'!r}: got {shown}, wanted {_name(hint)}")


def _name(hint: Any) -> str:
    """A hint as it is shown in a message."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(choice) for choice in args)
    if origin is Literal:
        return " or ".join(repr(value) for value in args)
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_name(item) for item in args)}]"
    return _NAMES.get(hint) or str(hint.__name__)


def _dump(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return dump(value)
    if isinstance(value, (list, tuple)):
        return [_dump(item) for item in value]
    if isinstance(value, dict):
        return {key: _dump(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON cannot represent {value}")
    if value is not None and not isinstance(value, (str, int, float, bool)):
        raise TypeError(f"JSON cannot represent {type(value).__name__}")
    return value
