"""The way back from transformers' outputs, which the judge reads."""

from __future__ import annotations

import numpy as np

from exporters.layouts.tokens import POOLED, TOKENS, Split


def test_tokens_in_order() -> None:
    tokens = np.arange(2 * 9 * 4, dtype=np.float32).reshape(2, 9, 4)
    found = Split(storage=2, stride=16)(
        {TOKENS: tokens, POOLED: tokens[:, 0]}, np.zeros((2, 3, 32, 48), np.float32)
    )
    assert np.array_equal(found["cls"], tokens[:, 0])
    assert np.array_equal(found["storage"], tokens[:, 1:3])
    assert found["patch"].shape == (2, 2, 3, 4)
    assert np.array_equal(found["patch"][:, 1, 0], tokens[:, 6])


def test_another_pooled_vector_is_seen() -> None:
    tokens = np.ones((1, 7, 4), np.float32)
    pixels = np.zeros((1, 3, 32, 48), np.float32)
    assert np.isfinite(Split(0, 16)({TOKENS: tokens, POOLED: tokens[:, 0]}, pixels)["cls"]).all()
    assert np.isnan(Split(0, 16)({TOKENS: tokens, POOLED: tokens[:, 0] + 1}, pixels)["cls"]).all()


def test_a_wrong_number_of_tokens_is_seen() -> None:
    tokens = np.ones((1, 8, 4), np.float32)
    found = Split(0, 16)({TOKENS: tokens, POOLED: tokens[:, 0]}, np.zeros((1, 3, 32, 48), np.float32))
    assert np.isnan(found["cls"]).all()
    assert "patch" not in found
