"""The OpenAPI document as the page /docs shows it: routes, parameters, bodies, answers, and a curl command.

An own page in place of Swagger UI, whose 1.5 MB of scripts would come with every installation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

Schema = Mapping[str, Any]
_DEEPEST = 6  # levels of a body that are shown
EXAMPLES = {
    "image/*": "--data-binary @cat.jpg -H 'Content-Type: image/jpeg'",
    "multipart/form-data": "-F files=@cat.jpg",
}
OPENAI_EXAMPLE = """--json '{"model": "MODEL", "input": "data:image/jpeg;base64,…"}'"""


@dataclass(frozen=True)
class Line:
    """A field of a body. depth: 0 for the outermost."""

    depth: int
    name: str
    type: str
    required: bool
    text: str


@dataclass(frozen=True)
class Body:
    """A body of one content type."""

    media_type: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class RouteFacts:
    """One route. answers: (status, meaning)."""

    method: str
    path: str
    text: str
    parameters: tuple[Line, ...]
    bodies: tuple[Body, ...]
    answer: tuple[Body, ...]
    answers: tuple[tuple[str, str], ...]
    curl: str

    @property
    def anchor(self) -> str:
        return f"{self.method.lower()}{self.path}".replace("/", "-").replace("{", "").replace("}", "")


def route_facts(document: Schema) -> list[RouteFacts]:
    """Every route of an OpenAPI document, in its order."""
    return [
        _route(method.upper(), path, operation, document)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


def _route(method: str, path: str, operation: Schema, document: Schema) -> RouteFacts:
    responses = operation["responses"]
    body = operation.get("requestBody", {})
    parameters = [
        _line(0, one["name"], one["schema"], one.get("required", False), document, one.get("description", ""))
        for one in operation.get("parameters", ())
    ]
    return RouteFacts(
        method,
        path,
        operation.get("description", ""),
        tuple(parameters),
        _bodies(body, document),
        _bodies(responses.get("200", {}), document),
        tuple((status, facts["description"]) for status, facts in responses.items()),
        _curl(method, path, list(body.get("content", ()))),
    )


def _curl(method: str, path: str, kinds: list[str]) -> str:
    """A command that asks a route; HOST stands for the service's address."""
    if method == "GET":
        return f"curl 'HOST{path}'" if "{" in path else f"curl HOST{path}"
    known = [EXAMPLES[kind] for kind in ("multipart/form-data", "image/*") if kind in kinds]
    return f"curl {(known or [OPENAI_EXAMPLE])[0]} HOST{path}"


def _bodies(message: Schema, document: Schema) -> tuple[Body, ...]:
    return tuple(
        Body(kind, tuple(_fields(0, facts.get("schema", {}), document)))
        for kind, facts in message.get("content", {}).items()
    )


def _fields(depth: int, schema: Schema, document: Schema) -> Iterator[Line]:
    """The fields of an object, of the objects in a list, and of the objects that may stand here."""
    schema = _resolved(schema, document)
    if depth == _DEEPEST:
        return
    if "items" in schema:
        yield from _fields(depth, schema["items"], document)
    for choice in _choices(schema):
        for line in _fields(depth, choice, document):
            yield replace(line, required=line.required and line.depth > depth)  # another one may stand here
    for name, field in schema.get("properties", {}).items():
        yield _line(depth, name, field, name in schema.get("required", ()), document)
        yield from _fields(depth + 1, field, document)


def _line(depth: int, name: str, schema: Schema, required: bool, document: Schema, text: str = "") -> Line:
    found = _resolved(schema, document)
    return Line(depth, name, _type(schema, document), required, text or found.get("description", ""))


def _type(schema: Schema, document: Schema) -> str:
    """A type in words: string, array of numbers, "png" | "rle"."""
    schema = _resolved(schema, document)
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if values:
        words = " | ".join(f'"{value}"' for value in values)
    elif choices := _choices(schema):
        words = " | ".join(dict.fromkeys(_type(choice, document) for choice in choices))
    elif schema.get("type") == "array":
        words = f"array of {_type(schema.get('items', {}), document)}"
    else:
        words = "file" if schema.get("format") == "binary" else schema.get("type", "any")
    default = schema.get("default")
    if isinstance(default, bool):
        default = str(default).lower()
    return words if default is None else f"{words}, default {default}"


def _choices(schema: Schema) -> list[Schema]:
    found: list[Schema] = schema.get("anyOf", schema.get("oneOf", []))
    return [one for one in found if one.get("type") != "null"]


def _resolved(schema: Schema, document: Schema) -> Schema:
    """A schema, or the one that it refers to."""
    if "$ref" not in schema:
        return schema
    found: Any = document
    for name in schema["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
