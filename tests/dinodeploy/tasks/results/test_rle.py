"""Run-length encoded masks against a decoder that follows the format bit by bit, and known strings."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.tasks.results.rle import encode_mask, run_lengths
from tests.support.decode_rle import decode_mask


def test_runs_go_down_the_columns_and_begin_with_zero() -> None:
    mask = np.array([[0, 1, 1], [1, 1, 0]], bool)
    assert run_lengths(mask).tolist() == [1, 4, 1]
    assert run_lengths(~mask).tolist() == [0, 1, 4, 1]
    assert run_lengths(np.zeros((2, 2), bool)).tolist() == [4]
    assert run_lengths(np.ones((2, 2), bool)).tolist() == [0, 4]


def test_small_numbers_are_one_sign() -> None:
    """1, 4, 1 -> '141'; 0 and 16 -> '0' and two signs, since a fifth bit would mean a negative number."""
    assert encode_mask(np.array([[0, 1, 1], [1, 1, 0]], bool)) == {"size": [2, 3], "counts": "141"}
    assert encode_mask(np.ones((4, 4), bool)) == {"size": [4, 4], "counts": "0`0"}


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 48), (1, 3000), (2500, 3)])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_every_mask_comes_back(shape: tuple[int, int], density: float) -> None:
    mask = np.random.default_rng(0).random(shape) < density
    assert (decode_mask(encode_mask(mask)) == mask).all()


def test_large_runs_and_falling_ones_come_back() -> None:
    mask = np.zeros((3000, 2000), bool)
    mask[10:2900, 50:1900] = True
    mask[500:502] = False
    assert (decode_mask(encode_mask(mask)) == mask).all()
