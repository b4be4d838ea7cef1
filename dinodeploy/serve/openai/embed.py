"""Images and texts to vectors, through the batcher and the text graph of the other routes, and to JSON.

Shapes: D size of a vector.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dinodeploy.arrays import FloatArray
from dinodeploy.parity.judge import unit_rows
from dinodeploy.serve.bodies.answers import BYTES_PER_NUMBER, in_pieces
from dinodeploy.serve.openai.inputs import EmbeddingsRequest, Input, Numbers
from dinodeploy.serve.openai.names import ServedModel
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import Question, Service
from dinodeploy.serve.words import words_of
from dinodeploy.store.dtypes import unit_length

_ENCODINGS = {"float": "json", "base64": "base64"}
Embedded = tuple[FloatArray, int]  # a vector [D], and the tokens that the model has read


async def embed_inputs(service: Service, model: ServedModel, asked: EmbeddingsRequest) -> list[Embedded]:
    """The vector of each input, in order: the numbers of `Embedder.encode` and `encode_text`.

    Raises Refused, which names the input that cannot be embedded.
    """
    if asked.dimensions not in (None, model.dimensions):
        raise Refused(
            422,
            f"dimensions: got {asked.dimensions}; the vectors of {model.id} have {model.dimensions} numbers, "
            "and are not shortened",
            param="dimensions",
        )
    _check_texts(asked.inputs, model, service)
    try:
        made = await service.in_time(_embed(service, model.output, asked))
    except Refused as refused:
        if refused.status in (413, 422):
            refused.param = refused.param or "input"
        raise
    for number, (vector, _) in enumerate(made):
        if not np.isfinite(vector).all():
            raise Refused(422, f"input {number}: its embedding is not finite", param="input")
    return made


def _check_texts(inputs: Sequence[Input], model: ServedModel, service: Service) -> None:
    """Raises Refused for a text that the model cannot embed."""
    if model.texts:
        return
    for number, one in enumerate(inputs):
        if isinstance(one, str):
            name = f"input {number} is a text, and {model.id} embeds images only"
            if service.embedder.manifest.text is not None:
                mend = "the service needs the package tokenizers: pip install 'dinodeploy[text]'"
            else:
                mend = 'send an image as a data URL, "data:image/jpeg;base64,…", or serve a dino.txt bundle'
            raise Refused(422, f"{name}; {mend}", param="input")


async def _embed(service: Service, output: str, asked: EmbeddingsRequest) -> list[Embedded]:
    images = [one for one in asked.inputs if isinstance(one, Question)]
    texts = [one for one in asked.inputs if isinstance(one, str)]
    of_images = iter(await _embed_images(service, output, images, asked.normalize) if images else ())
    of_texts = iter(await _embed_texts(service, texts, asked.normalize) if texts else ())
    return [next(of_images if isinstance(one, Question) else of_texts) for one in asked.inputs]


async def _embed_images(
    service: Service, output: str, images: Sequence[Question], normalize: bool
) -> list[Embedded]:
    model = service.embedder.manifest.model
    made: list[Embedded] = []
    for answer in await service.embed(images, [output]):
        vector = answer.outputs[output]
        patches = answer.size[0] * answer.size[1] // model.patch_size**2
        tokens = 1 + model.storage_tokens + patches
        made.append((unit_length(vector)[0] if normalize else vector, tokens))
    return made


async def _embed_texts(service: Service, texts: Sequence[str], normalize: bool) -> list[Embedded]:
    words = words_of(service)
    vectors = await words.vectors(texts)
    counts = await words.count_tokens(texts)
    return list(zip(unit_rows(vectors) if normalize else vectors, counts, strict=True))


def answer_size(vectors: Sequence[FloatArray], numbers: Numbers) -> int:
    """Estimated bytes of the answer, from above."""
    each = BYTES_PER_NUMBER[_ENCODINGS[numbers]]
    return sum(100 + round(vector.size * each) for vector in vectors)


def write_embeddings(
    model: str, vectors: Sequence[FloatArray], numbers: Numbers, tokens: int
) -> Iterator[bytes]:
    """`messages.EmbeddingList` of vectors [D], in pieces. tokens: that the model has read."""
    return in_pieces(_parts(model, vectors, numbers, tokens))


def _parts(model: str, vectors: Sequence[FloatArray], numbers: Numbers, tokens: int) -> Iterator[bytes]:
    yield b'{"object":"list","data":['
    for index, vector in enumerate(vectors):
        values = _as_base64(vector) if numbers == "base64" else vector.tolist()
        row = {"object": "embedding", "index": index, "embedding": values}
        yield (b"," if index else b"") + _dump(row)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield b'],"model":' + _dump(model) + b',"usage":' + _dump(usage) + b"}"


def _as_base64(vector: FloatArray) -> str:
    """float32, little-endian: what clients decode with `numpy.frombuffer`."""
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
