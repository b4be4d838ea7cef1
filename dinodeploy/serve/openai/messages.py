"""Bodies of /v1 as pydantic models and JSON Schema, for the OpenAPI document. `inputs.py` reads requests."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from dinodeploy.serve.messages import Message
from dinodeploy.serve.openai.inputs import Modality, Numbers
from dinodeploy.serve.words import LONGEST


class Embedding(Message):
    object: Literal["embedding"]
    index: int = Field(description="Of the input.")
    embedding: list[float] | str = Field(description="Numbers, or little-endian float32 in base64.")


class Usage(Message):
    prompt_tokens: int = Field(description="Tokens that the model has read: patches, CLS and storage; words.")
    total_tokens: int


class EmbeddingList(Message):
    object: Literal["list"]
    data: list[Embedding] = Field(description="In the order of the inputs.")
    model: str
    usage: Usage


class Model(Message):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time of the bundle's manifest.")
    owned_by: str = "dinodeploy"
    output: str = Field(description="Output of the engine that these embeddings are.")
    dimensions: int = Field(description="Numbers in an embedding.")
    modalities: list[Literal["image", "text"]] = Field(description="What can be embedded.")
    recipe: str
    fingerprint: dict[str, Any] = Field(
        description="Everything the numbers depend on: compare embeddings only if it is equal."
    )


class ModelList(Message):
    object: Literal["list"] = "list"
    data: list[Model]


class OpenAIErrorFacts(BaseModel):
    model_config = ConfigDict(extra="forbid")

    message: str = Field(description="One line: what, got, wanted, fix.")
    type: str
    param: str | None = Field(description="The field of the request that is wrong.")
    code: str | None = Field(description="A word for programs: model_not_found, invalid_api_key …")


class OpenAIProblem(Message):
    """The body of every error answer under /v1."""

    error: OpenAIErrorFacts


def _part(description: str, name: str, content: dict[str, Any], *types: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "required": [name],
        "properties": {name: content, "type": {"type": "string", "enum": list(types)}},
    }


_STRING = {"type": "string", "minLength": 1}
_TEXT = {"type": "string", "minLength": 1, "maxLength": LONGEST}
_URL = {
    "anyOf": [
        _STRING,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["url"],
            "properties": {"url": _STRING, "detail": {}},
        },
    ]
}
_INPUT: dict[str, Any] = {
    "anyOf": [
        {
            **_STRING,
            "description": "A data URL or base64 of an image file; an https URL where the service fetches "
            "them; a text where the model embeds texts.",
        },
        _part("A text.", "text", _TEXT, "text", "input_text"),
        _part("An image by data URL or https URL.", "image_url", _URL, "image_url", "input_image"),
        _part("An image in base64.", "image_base64", _STRING, "image_base64"),
        _part("An image by data URL, base64 or https URL.", "image", _STRING, "image"),
    ]
}
_CONTENT = {"anyOf": [_STRING, {"type": "array", "items": _INPUT}]}
EMBEDDINGS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["model"],
                    "properties": {
                        "model": {**_STRING, "description": "An id of GET /v1/models."},
                        "input": {"anyOf": [_INPUT, {"type": "array", "minItems": 1, "items": _INPUT}]},
                        "messages": {
                            "type": "array",
                            "minItems": 1,
                            "description": "In place of input: a conversation with one image or one text.",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["content"],
                                "properties": {"role": {"type": "string"}, "content": _CONTENT},
                            },
                        },
                        "encoding_format": {"enum": list(get_args(Numbers)), "default": "float"},
                        "dimensions": {
                            "type": "integer",
                            "minimum": 1,
                            "description": "The size of the model's vectors; no other is possible.",
                        },
                        "user": {"type": "string", "description": "Is not used."},
                        "modality": {
                            "enum": list(get_args(Modality)),
                            "description": "What strings are. Default: decided for each, refused if unclear.",
                        },
                        "normalize": {
                            "type": "boolean",
                            "default": True,
                            "description": "Vectors of length 1. false: the numbers of /embed.",
                        },
                    },
                }
            }
        },
    }
}
