"""The answer of /v1/embeddings as JSON, and a vector that is not finite."""

from __future__ import annotations

import asyncio
import base64
import json
from types import SimpleNamespace as Facts
from typing import Any

import numpy as np
import pytest

from dinodeploy.serve.openai.embed import answer_size, embed_inputs, write_embeddings
from dinodeploy.serve.openai.inputs import EmbeddingsRequest
from dinodeploy.serve.openai.names import ServedModel
from dinodeploy.serve.refused import Refused
from dinodeploy.serve.service import Question

VECTORS = np.random.default_rng(0).standard_normal((40, 512), np.float32)


@pytest.mark.parametrize("numbers", ["float", "base64"])
def test_every_bit_arrives_in_pieces(numbers: Any) -> None:
    pieces = list(write_embeddings("m", list(VECTORS), numbers, 7))
    body = b"".join(pieces)
    assert len(pieces) > 1
    assert len(body) <= answer_size(VECTORS, numbers)  # type: ignore[arg-type]
    answer = json.loads(body)
    assert (answer["object"], answer["model"]) == ("list", "m")
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [row["index"] for row in answer["data"]] == list(range(40))
    rows = [row["embedding"] for row in answer["data"]]
    if numbers == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    np.testing.assert_array_equal(np.float32(rows), VECTORS)


def test_a_vector_that_is_not_finite_is_refused() -> None:
    async def embed(images: list[Question], names: list[str]) -> list[Any]:
        rows = (np.ones(4, np.float32), np.float32([1, np.inf, 0, 0]))
        return [Facts(outputs={"cls": row}, size=(32, 32)) for row in rows]

    async def in_time(work: Any) -> Any:
        return await work

    facts = Facts(patch_size=16, storage_tokens=4)
    service: Any = Facts(embed=embed, in_time=in_time, embedder=Facts(manifest=Facts(model=facts)))
    model = ServedModel("m", "cls", 4, texts=False)
    for normalize in (True, False):
        asked = EmbeddingsRequest("m", (Question("input 0"), Question("input 1")), normalize=normalize)
        with pytest.raises(Refused, match="input 1: its embedding is not finite"):
            asyncio.run(embed_inputs(service, model, asked))
