"""Answers of /embed, written in pieces: the same JSON as `json.dumps`, and never all of it in memory."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from dinodeploy.serve.bodies.answers import PIECE, encode_answers, encoded_size
from dinodeploy.serve.service import Answer

RNG = np.random.default_rng(0)


def answer(name: str, grid: int) -> Answer:
    outputs = {
        "cls": RNG.normal(size=8).astype(np.float32),
        "storage": RNG.normal(size=(4, 8)).astype(np.float32),
        "patch": RNG.normal(size=(grid, grid, 8)).astype(np.float32),
    }
    return Answer(name, 5, 6, (16 * grid, 16 * grid), outputs)


@pytest.mark.parametrize("grid", [1, 60])
def test_json_equals_that_of_the_standard_library(grid: int) -> None:
    answers = [answer('a"b', grid), answer("ü", grid)]
    pieces = list(encode_answers(answers, {"recipe": "fp32"}, "json"))
    wanted = {
        "images": [
            {
                "name": one.name,
                "width": 5,
                "height": 6,
                "input": [16 * grid, 16 * grid],
                "outputs": {name: values.tolist() for name, values in one.outputs.items()},
            }
            for one in answers
        ],
        "fingerprint": {"recipe": "fp32"},
    }
    assert b"".join(pieces) == json.dumps(wanted, separators=(",", ":")).encode()
    assert max(map(len, pieces)) < PIECE + 60 * 8 * 25
    numbers = sum(values.size for one in answers for values in one.outputs.values())
    assert 10 * numbers < encoded_size(answers, "json") < 23 * numbers


def test_base64_in_pieces_is_one_text() -> None:
    one = answer("a", 120)
    pieces = list(encode_answers([one], {}, "base64"))
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 3 * PIECE
    read = json.loads(b"".join(pieces))["images"][0]["outputs"]["patch"]
    values = np.frombuffer(base64.b64decode(read["base64"], validate=True), "<f4").reshape(read["shape"])
    np.testing.assert_array_equal(values, one.outputs["patch"])
