"""The images in a request body: a form, JSON, or one image. Parsed with limits, and one error at most.

multipart/form-data     every file of the form, whatever its field name
application/json        {"images": [{"base64": "…"}, {"url": "https://…"}]}, or {"image": {…}} for /search
image/*                 one image file

The structure of JSON is counted before it is parsed: a megabyte of `{},{},…` would become a hundred megabytes
of Python objects.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import numpy as np
from python_multipart.exceptions import FormParserError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from dinodeploy.errors import reason_of
from dinodeploy.files.json_file import parse_json
from dinodeploy.images.base64_text import decode_base64
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import Question
from dinodeploy.serve.settings import Settings

MOST_FIELDS = 16  # of a form, beside its files
T = TypeVar("T")
INLINE = 64 << 10  # bytes of a body that is parsed at once
_STRUCTURE = (b"{", b"[", b",", b":")
_IS_STRUCTURE = np.isin(np.arange(256), [ord(sign) for sign in _STRUCTURE])
MOST_JSON = 16  # brackets, commas and colons in JSON for each image that a request may have
_BLOCK = 1 << 20  # bytes of JSON whose structure is counted at a time
_LONGEST_NAME = 200  # characters of a file name that are kept
_LONGEST_MESSAGE = 300
_SHOWN = 40  # characters of a foreign key that a message quotes


def read_questions(body: bytes, headers: Mapping[str, str], settings: Settings, field: str) -> list[Question]:
    """The images of a body. field: `images` or `image`, the key in JSON.

    Raises Refused: 413 for too many images, 415 for another content type, 422 for a malformed body.
    """
    kind = content_type(headers)
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


def content_type(headers: Mapping[str, str]) -> str:
    """The media type of a body, in small letters. Raises Refused, 415, for a compressed body."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Refused(415, f"got a body in the coding {coding[:_SHOWN]!r}; send it without compression")
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def parse_body(body: bytes, parse: Callable[[bytes], T]) -> T:
    """`parse(body)`; of a large body in a thread."""
    return parse(body) if len(body) < INLINE else await run_in_threadpool(parse, body)


def parse_limited(body: bytes, settings: Settings) -> Any:
    """Parse JSON that is about as long as `max_images` images need. Raises Refused, 413 and 422."""
    most = MOST_JSON * (settings.max_images + 1)
    if _has_more_structure(body, most):
        raise Refused(
            413,
            f"JSON: more than {most} brackets, commas and colons, the limit for {settings.max_images} images",
        )
    return parse_json(body, "JSON", "request", lambda message: Refused(422, message[:_LONGEST_MESSAGE]))


def _has_more_structure(body: bytes, most: int) -> bool:
    """Whether JSON has more than `most` brackets, commas and colons outside of its strings."""
    if sum(map(body.count, _STRUCTURE)) <= most:
        return False
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    found = inside = 0
    for start in range(0, len(unescaped), _BLOCK):
        letters = np.frombuffer(unescaped[start : start + _BLOCK], np.uint8)
        # only whether the number of quotes is odd matters: eight bits may overflow
        in_string = (np.cumsum(letters == ord('"'), dtype=np.uint8) + np.uint8(inside)) & 1
        found += int(np.count_nonzero(_IS_STRUCTURE[letters] & (in_string == 0)))
        if found > most:
            return True
        inside = int(in_string[-1])
    return False


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
    parsed = parse_limited(body, settings)
    if not isinstance(parsed, dict) or set(parsed) != {field}:
        wanted = '{"images": […]}' if field == "images" else '{"image": {…}}'
        raise Refused(422, f"JSON: wanted an object with {field} only: {wanted}")
    images = parsed[field] if field == "images" else [parsed[field]]
    if not isinstance(images, list) or not images:
        raise Refused(422, "JSON: images: wanted a list with at least one image")
    if len(images) > settings.max_images:
        raise Refused(413, f"{len(images)} images in one request; wanted at most {settings.max_images}")
    return [_question(number, image, settings) for number, image in enumerate(images)]


def _question(number: int, image: Any, settings: Settings) -> Question:
    name = f"image {number}"
    if not isinstance(image, dict) or len(image) != 1:
        raise Refused(422, f'JSON: {name}: wanted {{"base64": "…"}} or {{"url": "https://…"}}')
    ((kind, value),) = image.items()
    if kind not in ("base64", "url") or not isinstance(value, str):
        raise Refused(422, f"JSON: {name}: got {kind[:_SHOWN]!r}; wanted a text under base64 or url")
    return question_of_url(name, value, settings) if kind == "url" else question_of_base64(name, value)


def question_of_url(name: str, url: str, settings: Settings) -> Question:
    """An image to fetch. Raises Refused where the service fetches none."""
    if not settings.allow_urls:
        raise Refused(
            422, "this service does not fetch URLs; send the image file, or start it with --allow-urls"
        )
    return Question(name, url=url)


def question_of_base64(name: str, value: str) -> Question:
    """An image in base64, in every spelling of `decode_base64`. Raises Refused."""
    try:
        return Question(name, decode_base64(value))
    except ValueError as error:
        raise Refused(422, f"{name}: not base64; wanted an image file in base64") from error
