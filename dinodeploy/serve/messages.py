"""What the service answers, as pydantic models: OpenAPI is written from them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    """No field but the named ones."""

    model_config = ConfigDict(extra="forbid")


class Problem(Message):
    """Every answer that is no success."""

    error: str = Field(description="One line: what, got, wanted, mend.")
    request_id: str = Field(description="As in the header X-Request-Id and in the log.")


class InlinePicture(Message):
    base64: str = Field(description="A picture file: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000, AVIF.")


class LinkedPicture(Message):
    url: str = Field(description="https only, public addresses only; where the service allows URLs.")


class EmbedRequest(Message):
    images: list[InlinePicture | LinkedPicture] = Field(min_length=1)


class SearchRequest(Message):
    image: InlinePicture | LinkedPicture


class Base64Array(Message):
    """float32, little-endian, row by row."""

    dtype: str
    shape: list[int]
    base64: str


class EmbeddedPicture(Message):
    name: str
    width: int = Field(description="Of the picture, upright, in pixels.")
    height: int
    input: list[int] = Field(description="H and W of the model's input, in pixels.")
    outputs: dict[str, list[Any] | Base64Array] = Field(
        description="cls [D], storage [R,D], patch [h,w,D], layer_<i> [h,w,D], mean_patch [D], pooled [2D]."
    )


class EmbedResponse(Message):
    images: list[EmbeddedPicture]
    fingerprint: dict[str, Any] = Field(
        description="What decides the numbers: mix embeddings only where it is equal."
    )


class FoundPicture(Message):
    rank: int
    id: str = Field(description="For /thumbnail?id=, too.")
    cosine: float
    width: int = Field(description="Of the original, in pixels.")
    height: int
    metadata: dict[str, Any]


class SearchResponse(Message):
    results: list[FoundPicture]


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
    index: int | None = Field(description="Rows of the index behind /search; null without one.")
    index_columns: dict[str, str] | None = Field(description="What filters may ask for, and its kind.")
    limits: Limits
    licence: str


class Health(Message):
    status: str
