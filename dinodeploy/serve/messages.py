"""Request and response bodies: the pydantic models behind OpenAPI, and the images of a request.

multipart/form-data     every file of the form, whatever its field name
application/json        {"images": [{"base64": "…"}, {"url": "https://…"}]}, or {"image": {…}} for /search
image/*                 one image file
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import Question
from dinodeploy.serve.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request

_LONGEST_NAME = 200  # characters of a file name that are kept


class Message(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Problem(Message):
    """The body of every error answer."""

    error: str = Field(description="One line: what, got, wanted, fix.")
    request_id: str = Field(description="As in the header X-Request-Id and in the log.")


class InlineImage(Message):
    base64: str = Field(description="An image file: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000, AVIF.")


class LinkedImage(Message):
    url: str = Field(description="https only, public addresses only; where the service allows URLs.")


class EmbedRequest(Message):
    images: list[InlineImage | LinkedImage] = Field(min_length=1)


class SearchRequest(Message):
    image: InlineImage | LinkedImage


class Base64Array(Message):
    """float32, little-endian, row-major."""

    dtype: str
    shape: list[int]
    base64: str


class EmbeddedImage(Message):
    name: str
    width: int = Field(description="Of the original image, upright, in pixels.")
    height: int
    input: list[int] = Field(description="H and W of the model input, in pixels.")
    outputs: dict[str, list[Any] | Base64Array] = Field(
        description="cls [D], storage [R,D], patch [h,w,D], layer_<i> [h,w,D], mean_patch [D], pooled [2D]."
    )


class EmbedResponse(Message):
    images: list[EmbeddedImage]
    fingerprint: dict[str, Any] = Field(
        description="Everything the numbers depend on: compare embeddings only if it is equal."
    )


class FoundImage(Message):
    rank: int
    id: str = Field(description="Also for /thumbnail?id=.")
    cosine: float
    width: int = Field(description="Of the original image, in pixels.")
    height: int
    metadata: dict[str, Any]


class SearchResponse(Message):
    results: list[FoundImage]


class Limits(Message):
    max_bytes: int
    max_pixels: int
    max_images: int
    urls: bool


class ModelResponse(Message):
    arch: str
    embed_dim: int
    patch_size: int
    recipe: str
    weights: str
    engine: str
    device: str
    preprocess: dict[str, Any]
    outputs: list[str]
    index: int | None = Field(description="Rows of the index behind /search; null without an index.")
    index_columns: dict[str, str] | None = Field(description="Columns that filters may use, and their kinds.")
    limits: Limits
    licence: str


class Health(Message):
    status: str


async def read_questions(
    request: Request, settings: Settings, message: type[EmbedRequest | SearchRequest]
) -> list[Question]:
    """The images of a request. Raises Refused: 415 for another content type, 422 for a malformed body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_form(request, settings)
    if kind == "application/json":
        return _from_json(await request.body(), settings, message)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [Question("image", await request.body())]
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
                name = value.filename or f"image {len(questions)}"
                questions.append(Question(name[:_LONGEST_NAME], await value.read()))
    finally:
        await form.close()
    if not questions:
        raise Refused(422, "the form has no file; send images as files: curl -F files=@cat.jpg")
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
    images = parsed.images if isinstance(parsed, EmbedRequest) else [parsed.image]
    return [_question(number, image, settings) for number, image in enumerate(images)]


def _question(number: int, image: InlineImage | LinkedImage, settings: Settings) -> Question:
    name = f"image {number}"
    if isinstance(image, LinkedImage):
        if not settings.allow_urls:
            raise Refused(
                422, "this service does not fetch URLs; send the image file, or start it with --allow-urls"
            )
        return Question(name, url=image.url)
    try:
        return Question(name, base64.b64decode(image.base64, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Refused(422, f"{name}: not base64; wanted an image file in base64") from error
