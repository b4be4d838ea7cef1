"""The JSON Schema of a request says what the parser does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.serve.openai.inputs import FIELDS, read_embeddings_request
from dinodeploy.serve.openai.messages import EMBEDDINGS_BODY
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.settings import Settings

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = EMBEDDINGS_BODY["requestBody"]["content"]["application/json"]["schema"]
URL = "data:image/png;base64,iVBORw0KGgo="


def test_the_schema_lists_the_fields() -> None:
    assert tuple(SCHEMA["properties"]) == FIELDS


@pytest.mark.parametrize(
    ("fields", "valid"),
    [
        ({"input": URL}, True),
        ({"input": [URL, {"type": "image_url", "image_url": {"url": URL, "detail": "auto"}}]}, True),
        ({"input": {"type": "input_image", "image_url": URL}}, True),
        ({"input": {"image": URL}}, True),
        ({"input": {"type": "text", "text": "a"}}, True),
        ({"messages": [{"role": "user", "content": [{"type": "image_base64", "image_base64": URL}]}]}, True),
        ({"input": URL, "encoding_format": "float", "dimensions": 8, "user": "me", "normalize": True}, True),
        ({"input": []}, False),
        ({"input": ""}, False),
        ({"input": 5}, False),
        ({"input": {"type": "text", "image": URL}}, False),
        ({"input": {"text": "a", "image": URL}}, False),
        ({"input": {"text": "a" * 1001}}, False),
        ({"input": URL, "dimensions": 0}, False),
        ({"input": URL, "modality": "audio"}, False),
        ({"input": URL, "user": 5}, False),
        ({"input": URL, "x": 1}, False),
        ({"messages": []}, False),
        ({"messages": [{"role": "user"}]}, False),
    ],
)
def test_schema_and_parser_agree(fields: dict[str, Any], valid: bool) -> None:
    body = {"model": "m", **fields}
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(body) == valid
    try:
        read_embeddings_request(
            json.dumps(body).encode(), {"content-type": "application/json"}, Settings(Path()), True
        )
    except Refused:
        assert not valid
    else:
        assert valid
