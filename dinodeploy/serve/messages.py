"""Request and response bodies: the pydantic models behind OpenAPI. `bodies/requests.py` reads requests."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Problem(Message):
    """The body of every error answer."""

    error: str = Field(description="One line: what, got, wanted, fix.")
    request_id: str = Field(description="As in the header X-Request-Id and in the log.")


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


class ProbableClass(Message):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    class_: str = Field(alias="class", description="A label.")
    probability: float = Field(description="Among the labels of this request.")
    cosine: float


class ClassifiedImage(Message):
    name: str
    classes: list[ProbableClass] = Field(description="The most probable first.")


class ClassifyResponse(Message):
    images: list[ClassifiedImage]


class Mask(Message):
    """COCO's compressed run lengths."""

    size: list[int] = Field(description="Height and width.")
    counts: str


class FoundRegion(Message):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    class_: str = Field(alias="class")
    label: int = Field(description="Index of the class.")
    score: float = Field(description="0 to 1; of a semantic class its share of the image.")
    box: list[float] | None = Field(None, description="Left, top, right, bottom in pixels of the image.")
    id: int | None = Field(None, description="In the map.")
    area: int | None = Field(None, description="Pixels of its mask.")
    thing: bool | None = Field(None, description="False for stuff, such as sky.")
    mask: Mask | None = None


class PredictionMap(Message):
    width: int
    height: int
    png: str = Field(
        description="Base64. Class ids in grey (255: none), ids as R + 256 G + 65536 B, or millimetres."
    )


class PredictedImage(Message):
    name: str
    width: int = Field(description="Of the original image, upright, in pixels.")
    height: int
    classes: list[dict[str, Any]] | None = Field(None, description="Of a classifier: class, probability.")
    values: dict[str, float] | None = Field(None, description="Of a regressor: numbers by name.")
    shares: dict[str, float] | None = Field(None, description="Of a segmenter: share of the image by class.")
    metres: dict[str, float] | None = Field(None, description="Of a depth head: nearest, median, farthest.")
    regions: list[FoundRegion] | None = None
    map: PredictionMap | None = None


class PredictResponse(Message):
    task: str
    images: list[PredictedImage]


class HeadResponse(Message):
    task: str
    classes: list[str]


class Limits(Message):
    max_bytes: int
    max_pixels: int
    max_images: int
    max_answer: int = Field(description="Bytes.")
    formats: list[str]
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
    head: HeadResponse | None = Field(description="What /predict predicts; null without a head.")
    index: int | None = Field(description="Rows of the index behind /search; null without an index.")
    texts: bool = Field(description="Whether the bundle has a text graph, for /search?text= and /classify.")
    labels: int | None = Field(description="Labels of /classify; null where requests must name them.")
    index_output: str | None = Field(description="Output that the index compares; null without an index.")
    index_columns: dict[str, str] | None = Field(description="Columns that filters may use, and their kinds.")
    limits: Limits
    licence: str


class Health(Message):
    status: str
