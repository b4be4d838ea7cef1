"""The body of POST /v1/embeddings: which inputs are images, and which are texts.

    {"model": "dinov3_vits16", "input": "data:image/jpeg;base64,…"}

An input is a string or a content part. Parts say what they are:

    {"type": "text", "text": "…"}                           {"text": "…"}
    {"type": "image_url", "image_url": {"url": "…"}}        {"image_url": "…"}, {"url": "…"}
    {"type": "image_base64", "image_base64": "…"}           {"image": "…"}, {"base64": "…"}

A string is decided by rules that refuse what is unclear, so that a text is never embedded in place of an
image, nor an image in place of a text:

1. `modality`, where the request has it, decides: "image" or "text".
2. `data:`, `http://` or `https://` at its beginning: an image. A data URL that is not base64 of an image type
   is refused.
3. Base64 that begins as image files do: an image.
4. Another string with a word that may be base64 of a file: an image for a model without texts, else refused.
5. Everything else: a text. A model without texts refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dinodeploy.images.base64_text import SHORTEST, data_url_type, is_base64_image
from dinodeploy.serve.bodies.requests import (
    content_type,
    parse_limited,
    question_of_base64,
    question_of_url,
)
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import Question
from dinodeploy.serve.settings import Settings
from dinodeploy.serve.words import LONGEST

Input = Question | str  # an image, or a text
Numbers = Literal["float", "base64"]
Modality = Literal["image", "text"]
FIELDS = (*("model", "input", "messages", "encoding_format", "dimensions", "user", "modality", "normalize"),)
KINDS = {
    "text": "text",
    "image_url": "image",
    "image_base64": "image",
    "image": "image",
    "url": "image",
    "base64": "image",
}
TYPES = {  # `type` of a content part -> the key that holds its content
    "text": "text",
    "input_text": "text",
    "image_url": "image_url",
    "input_image": "image_url",
    "image_base64": "image_base64",
    "image": "image",
}
_URL = re.compile(r"\s*https?://", re.IGNORECASE)
_DATA = re.compile(r"\s*data:", re.IGNORECASE)
_FILE_LIKE = re.compile(rf"[A-Za-z0-9+/_=-]{{{SHORTEST},}}")  # a word that may be base64 of a file
_SHOWN = 40  # characters of a foreign word that a message quotes


@dataclass(frozen=True)
class EmbeddingsRequest:
    """What a client wants. Its inputs are in order; normalize: vectors of length 1."""

    model: str
    inputs: tuple[Input, ...]
    numbers: Numbers = "float"
    dimensions: int | None = None
    normalize: bool = True


def read_embeddings_request(
    body: bytes, headers: Mapping[str, str], settings: Settings, texts: bool
) -> EmbeddingsRequest:
    """Parse a body. texts: whether a bare string may be a text. Raises Refused: 413, 415, 422."""
    kind = content_type(headers)
    if kind != "application/json":
        raise Refused(415, f"got a body of type {kind[:60] or 'none'}; wanted application/json")
    parsed = parse_limited(body, settings)
    if not isinstance(parsed, dict):
        raise Refused(422, 'JSON: wanted an object: {"model": "…", "input": "data:image/jpeg;base64,…"}')
    if unknown := sorted(set(parsed) - set(FIELDS)):
        name = unknown[0][:_SHOWN]
        raise Refused(422, f"{name!r} is unknown; wanted some of {', '.join(FIELDS)}", param=name)
    given = {name: value for name, value in parsed.items() if value is not None}
    if not isinstance(given.get("user", ""), str):
        raise Refused(422, "user: wanted a string", param="user")
    modality = _choice(given, "modality", Modality, None)
    inputs = [
        _input(number, one, settings, texts, modality) for number, one in enumerate(_inputs(given, settings))
    ]
    return EmbeddingsRequest(
        _text(given, "model"),
        tuple(inputs),
        _choice(given, "encoding_format", Numbers, "float"),
        _dimensions(given),
        _normalize(given),
    )


def _inputs(given: dict[str, Any], settings: Settings) -> list[Any]:
    """The inputs as they were sent. Raises Refused."""
    if ("input" in given) == ("messages" in given):
        raise Refused(422, "wanted one of input and messages", param="input")
    if "messages" in given:
        return [_only_part(given["messages"])]
    found = given["input"]
    inputs = found if isinstance(found, list) else [found]
    if not inputs:
        raise Refused(422, "input: got an empty list; wanted at least one image", param="input")
    if len(inputs) > settings.max_images:
        raise Refused(
            413, f"{len(inputs)} inputs in one request; wanted at most {settings.max_images}", param="input"
        )
    return inputs


def _only_part(messages: Any) -> Any:
    """The one content part of `messages`. Raises Refused for several: they would be one embedding."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Refused(422, "messages: wanted a list of objects", param="messages")
    parts: list[Any] = []
    for message in messages:
        if unknown := sorted(set(message) - {"role", "content"}):
            raise Refused(
                422,
                f"messages: {unknown[0][:_SHOWN]!r} is unknown; wanted role and content",
                param="messages",
            )
        content = message.get("content")
        parts += content if isinstance(content, list) else [content]
    filled = [part for part in parts if part not in (None, "", {"type": "text", "text": ""})]
    if len(filled) != 1:
        raise Refused(
            422,
            f"messages: got {len(filled)} parts with content; wanted one image or one text: the model embeds "
            "each alone; for several embeddings send a list as input",
            param="messages",
        )
    return filled[0]


def _input(number: int, given: Any, settings: Settings, texts: bool, modality: Modality | None) -> Input:
    """One input: an image or a text. Raises Refused, which names it."""
    name = f"input {number}"
    try:
        if isinstance(given, dict):
            kind, value = _part(name, given)
        elif isinstance(given, str):
            kind, value = modality or _kind_of(name, given, texts), given
        else:
            what = "token ids" if type(given) in (int, list) else f"a {type(given).__name__}"
            raise Refused(422, f"{name}: got {what}; wanted a string or a content part")
        if not value.strip():
            raise Refused(422, f"{name}: is empty; wanted an image or a text")
        if kind == "text":
            return _checked_text(name, value)
        return _image(name, value, settings)
    except Refused as refused:
        refused.param = refused.param or "input"
        raise


def _part(name: str, part: dict[str, Any]) -> tuple[Modality, str]:
    """What a content part is, and its content. Raises Refused."""
    keys = [key for key in part if key not in ("type", "detail")]
    kind = KINDS.get(keys[0]) if len(keys) == 1 else None
    if kind is None or ("type" in part and TYPES.get(str(part["type"])) != keys[0]):
        raise Refused(
            422,
            f'{name}: wanted {{"type": "image_url", "image_url": {{"url": "data:image/jpeg;base64,…"}}}} or '
            '{"type": "text", "text": "…"}',
        )
    value = part[keys[0]]
    if isinstance(value, dict) and keys[0] == "image_url" and set(value) <= {"url", "detail"}:
        value = value.get("url")
    if not isinstance(value, str):
        raise Refused(422, f"{name}: {keys[0]}: wanted a string")
    return ("text", value) if kind == "text" else ("image", value)


def _kind_of(name: str, given: str, texts: bool) -> Modality:
    """What a bare string is: rules 2 to 5 above. Raises Refused where they do not tell."""
    if _DATA.match(given) or _URL.match(given) or is_base64_image(given):
        return "image"
    if not _FILE_LIKE.search(given):
        return "text"
    if texts:
        raise Refused(
            422,
            f"{name}: may be a text, or base64 of an unknown kind of image; send an image as a data URL, a "
            'text as {"type": "text", "text": "…"}',
        )
    return "image"


def _image(name: str, given: str, settings: Settings) -> Question:
    if _URL.match(given):
        try:
            return question_of_url(name, given.strip(), settings)
        except Refused as refused:
            raise Refused(refused.status, f"{name}: {refused.message}") from refused
    if _DATA.match(given):
        kind = data_url_type(given)
        if kind is None:
            raise Refused(
                422, f"{name}: begins with data: but is no base64 data URL; wanted data:image/…;base64,…"
            )
        if kind not in ("", "application/octet-stream") and not kind.startswith("image/"):
            raise Refused(422, f"{name}: a data URL of type {kind[:_SHOWN]!r}; wanted an image type")
    try:
        return question_of_base64(name, given)
    except Refused as refused:
        raise Refused(
            refused.status,
            f"{name}: neither a data URL, an https URL nor base64 of an image file",
        ) from refused


def _checked_text(name: str, given: str) -> str:
    if len(given) > LONGEST:
        raise Refused(422, f"{name}: a text of {len(given):,} characters; wanted at most {LONGEST:,}")
    return given


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(422, f"{name}: wanted a string; GET /v1/models lists them", param=name)
    return value


def _choice(given: dict[str, Any], name: str, choices: Any, default: Any) -> Any:
    value = given.get(name, default)
    if value is not default and value not in get_args(choices):
        raise Refused(
            422, f"{name}: got {str(value)[:_SHOWN]!r}; wanted {' or '.join(get_args(choices))}", param=name
        )
    return value


def _dimensions(given: dict[str, Any]) -> int | None:
    value = given.get("dimensions")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise Refused(
            422, f"dimensions: got {str(value)[:_SHOWN]}; wanted the size of the vectors", param="dimensions"
        )
    return value


def _normalize(given: dict[str, Any]) -> bool:
    value = given.get("normalize", True)
    if not isinstance(value, bool):
        raise Refused(422, "normalize: wanted true or false", param="normalize")
    return value
