"""The images in a request body: a form, JSON, or one image. Parsed with limits, and one error at most.

multipart/form-data     every file of the form, whatever its field name
application/json        {"images": [{"base64": "…"}, {"url": "https://…"}]}, or {"image": {…}} for /search
image/*                 one image file

The structure of JSON is counted before it is parsed: a megabyte of `{},{},…` would become a hundred megabytes
of Python objects.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any

from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from dinodeploy.errors import reason_of
from dinodeploy.files.json_file import parse_json
from dinodeploy.images.base64_text import decode_base64
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import Question
from dinodeploy.serve.settings import Settings

MOST_FIELDS = 16  # of a form, beside its files
MOST_JSON = 16  # brackets, commas and colons in JSON for each image that a request may have
_LONGEST_NAME = 200  # characters of a file name that are kept
_LONGEST_MESSAGE = 300
_SHOWN = 40  # characters of a foreign key that a message quotes


def read_questions(body: bytes, headers: Mapping[str, str], settings: Settings, field: str) -> list[Question]:
    """The images of a body. field: `images` or `image`, the key in JSON.

    Raises Refused: 413 for too many images, 415 for another content type, 422 for a malformed body.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Refused(415, f"got a body in the coding {coding[:_SHOWN]!r}; send it without compression")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _complete(_from_form(body, headers, settings))
    if kind == "application/json":
        return _from_json(body, settings, field)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [Question("image", body)]
    raise Refused(
        415,
        f"got a body of type {kind[:60] or 'none'}; wanted multipart/form-data, application/json or image/*",
    )


def _complete(coroutine: Coroutine[Any, Any, list[Question]]) -> list[Question]:
    """Run a coroutine that never waits: the body is complete, and in memory."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        questions: list[Question] = done.value
        return questions
    raise AssertionError("the form parser waits for something")


async def _from_form(body: bytes, headers: Mapping[str, str], settings: Settings) -> list[Question]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        Headers(dict(headers)), stream(), max_files=settings.max_images + 1, max_fields=MOST_FIELDS
    )
    parser.spool_max_size = len(body) + 1  # never a temporary file: the body is in memory anyway
    try:
        form = await parser.parse()
    except KeyError as error:
        raise Refused(422, "the form cannot be read: no boundary") from error
    except (MultiPartException, FormParserError) as error:  # a broken boundary; too many parts, long headers
        detail = getattr(error, "message", "") or reason_of(error)
        status = 413 if "Too many" in detail else 422
        raise Refused(status, f"the form cannot be read: {detail}") from error
    questions: list[Question] = []
    try:
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                name = value.filename or f"image {len(questions)}"
                questions.append(Question(name[:_LONGEST_NAME], value.file.read()))
    finally:
        await form.close()
    if not questions:
        raise Refused(422, "the form has no file; send images as files: curl -F files=@cat.jpg")
    return questions


def _from_json(body: bytes, settings: Settings, field: str) -> list[Question]:
    _check_structure(body, settings.max_images)
    parsed = parse_json(body, "JSON", "request", lambda message: Refused(422, message[:_LONGEST_MESSAGE]))
    if not isinstance(parsed, dict) or set(parsed) != {field}:
        wanted = '{"images": […]}' if field == "images" else '{"image": {…}}'
        raise Refused(422, f"JSON: wanted an object with {field} only: {wanted}")
    images = parsed[field] if field == "images" else [parsed[field]]
    if not isinstance(images, list) or not images:
        raise Refused(422, "JSON: images: wanted a list with at least one image")
    if len(images) > settings.max_images:
        raise Refused(413, f"{len(images)} images in one request; wanted at most {settings.max_images}")
    return [_question(number, image, settings) for number, image in enumerate(images)]


def _check_structure(body: bytes, max_images: int) -> None:
    most = MOST_JSON * (max_images + 1)
    found = sum(map(body.count, (b"{", b"[", b",", b":")))
    if found > most:
        raise Refused(
            413, f"JSON: {found} brackets, commas and colons; wanted at most {most} for {max_images} images"
        )


def _question(number: int, image: Any, settings: Settings) -> Question:
    name = f"image {number}"
    if not isinstance(image, dict) or len(image) != 1:
        raise Refused(422, f'JSON: {name}: wanted {{"base64": "…"}} or {{"url": "https://…"}}')
    ((kind, value),) = image.items()
    if kind not in ("base64", "url") or not isinstance(value, str):
        raise Refused(422, f"JSON: {name}: got {kind[:_SHOWN]!r}; wanted a text under base64 or url")
    if kind == "url":
        if not settings.allow_urls:
            raise Refused(
                422, "this service does not fetch URLs; send the image file, or start it with --allow-urls"
            )
        return Question(name, url=value)
    try:
        return Question(name, decode_base64(value))
    except ValueError as error:
        raise Refused(422, f"{name}: not base64; wanted an image file in base64") from error
