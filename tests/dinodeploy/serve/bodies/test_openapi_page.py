"""What /docs shows of an OpenAPI document."""

from __future__ import annotations

from typing import Any

from dinodeploy.serve.bodies.openapi_page import Line, route_facts

NUMBER = {"type": "integer", "description": "A number."}
ITEM = {"type": "object", "required": ["n"], "properties": {"n": NUMBER}}
FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
ANSWER = {
    "properties": {
        "rows": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
        "on": {"type": "boolean", "default": False},
        "way": {"enum": ["up", "down"]},
    }
}
K = {
    "name": "k",
    "description": "How many.",
    "schema": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 3},
}


def content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {kind: {"schema": schema}}}


POST = {
    "description": "Does it.",
    "parameters": [K],
    "requestBody": content("multipart/form-data", {"required": ["files"], "properties": {"files": FILES}}),
    "responses": {
        "200": {"description": "OK", **content("application/json", ANSWER)},
        "422": {"description": "Invalid"},
    },
}
DOCUMENT: dict[str, Any] = {
    "paths": {"/a": {"post": POST}, "/b/{id}": {"get": {"responses": {"200": {"description": "OK"}}}}},
    "components": {"schemas": {"Item": ITEM}},
}


def test_routes() -> None:
    first, second = route_facts(DOCUMENT)
    assert (first.method, first.path, first.text, first.anchor) == ("POST", "/a", "Does it.", "post-a")
    assert first.parameters == (Line(0, "k", "integer, default 3", False, "How many."),)
    assert first.bodies[0].lines == (Line(0, "files", "array of file", True, ""),)
    assert first.answer[0].lines == (
        Line(0, "rows", "array of object", False, ""),
        Line(1, "n", "integer", True, "A number."),
        Line(0, "on", "boolean, default false", False, ""),
        Line(0, "way", '"up" | "down"', False, ""),
    )
    assert first.answers == (("200", "OK"), ("422", "Invalid"))
    assert first.curl == "curl -F files=@cat.jpg HOST/a"
    assert second.curl == "curl 'HOST/b/{id}'"
    assert second.bodies == second.answer == ()


def test_a_schema_that_holds_itself_ends() -> None:
    tree = {"properties": {"child": {"$ref": "#/components/schemas/Tree"}}}
    body = content("application/json", {"$ref": "#/components/schemas/Tree"})
    operation = {"requestBody": body, "responses": {"200": {"description": "OK"}}}
    (route,) = route_facts({"paths": {"/": {"post": operation}}, "components": {"schemas": {"Tree": tree}}})
    assert [line.depth for line in route.bodies[0].lines] == [0, 1, 2, 3, 4, 5]
