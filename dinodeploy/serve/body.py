"""From a request's body to the pictures in it: a form with files, JSON, or one picture as it is.

multipart/form-data     every file of the form, whatever its field is called
application/json        {"images": [{"base64": "…"}, {"url": "https://…"}]}, or {"image": {…}} for /search
image/*                 the picture itself
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from dinodeploy.serve.messages import EmbedRequest, InlinePicture, LinkedPicture, SearchRequest
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import Question
from dinodeploy.serve.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request

_NAME = 200  # characters of a file's name that are given back


async def read_questions(
    request: Request, settings: Settings, message: type[EmbedRequest | SearchRequest]
) -> list[Question]:
    """The pictures of a request. Raises Refused: 415 for another type of body, 422 for a malformed one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_form(request, settings)
    if kind == "application/json":
        return _from_json(await request.body(), settings, message)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [Question("picture", await request.body())]
    raise Refused(
        415,
        f"got a body of type {kind[:60] or 'none'}; wanted multipart/form-data, application/json or image/*",
    )


async def _from_form(request: Request, settings: Settings) -> list[Question]:
    try:
        form = await request.form(max_files=settings.max_images + 1, max_fields=16)
    except HTTPException as error:  # a broken boundary, too many parts
        status = 413 if "Too many" in str(error.detail) else 422
        raise Refused(status, f"the form cannot be read: {error.detail}") from error
    questions: list[Question] = []
    try:
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                name = value.filename or f"picture {len(questions)}"
                questions.append(Question(name[:_NAME], await value.read()))
    finally:
        await form.close()
    if not questions:
        raise Refused(422, "the form has no file; send pictures as files: curl -F files=@cat.jpg")
    return questions


def _from_json(
    body: bytes, settings: Settings, message: type[EmbedRequest | SearchRequest]
) -> list[Question]:
    try:
        parsed = message.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Refused(422, f"JSON: {where}: {first['msg']}") from error
    pictures = parsed.images if isinstance(parsed, EmbedRequest) else [parsed.image]
    return [_question(number, picture, settings) for number, picture in enumerate(pictures)]


def _question(number: int, picture: InlinePicture | LinkedPicture, settings: Settings) -> Question:
    name = f"image {number}"
    if isinstance(picture, LinkedPicture):
        if not settings.allow_urls:
            raise Refused(
                422, "this service fetches no URLs; send the picture, or start it with --allow-urls"
            )
        return Question(name, url=picture.url)
    try:
        return Question(name, base64.b64decode(picture.base64, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Refused(422, f"{name}: not base64; wanted a picture file in it") from error
