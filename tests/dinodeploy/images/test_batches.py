"""Images of one size meet in a batch, none is lost, and few wait."""

from __future__ import annotations

import random
from collections.abc import Iterator
from operator import itemgetter

import numpy as np
import pytest

from dinodeploy import MisuseError
from dinodeploy.images.batches import MAX_WAITING, batches_of_one_size, gather_by_size

Item = tuple[int, tuple[int, int]]  # position, size
A, B = (16, 32), (32, 16)


def gathered(sizes: list[tuple[int, int]], batch_size: int) -> list[list[int]]:
    batches = gather_by_size(enumerate(sizes), batch_size, itemgetter(1))
    return [[position for position, _ in batch] for batch in batches]


def test_neighbours_keep_their_order_and_never_mix_sizes() -> None:
    sizes = [2, 2, 2, 3, 2, 2]
    arrays = [np.full((3, size, 2), index, np.float32) for index, size in enumerate(sizes)]
    batches = [[int(array.flat[0]) for array in batch] for batch in batches_of_one_size(arrays, 2)]
    assert batches == [[0, 1], [2], [3], [4, 5]]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_images_of_one_size_are_cut_into_equal_batches(batch_size: int) -> None:
    wanted = [list(range(7))[i : i + batch_size] for i in range(0, 7, batch_size)]
    assert gathered([A] * 7, batch_size) == wanted
    assert [
        [i for i, _ in b] for b in batches_of_one_size(enumerate([A] * 7), batch_size, itemgetter(1))
    ] == (wanted)


def test_sizes_are_gathered_over_their_neighbours() -> None:
    assert gathered([A, B, A, B, B, A, A], 3) == [[1, 3, 4], [0, 2, 5], [6]]


def test_no_batch_mixes_sizes_and_none_is_lost() -> None:
    rng = random.Random(0)
    sizes = [(16 * rng.randint(1, 9), 16 * rng.randint(1, 9)) for _ in range(500)]
    batches = gathered(sizes, 8)
    assert sorted(position for batch in batches for position in batch) == list(range(500))
    assert all(len({sizes[position] for position in batch}) == 1 for batch in batches)
    assert batches == gathered(sizes, 8), "the order of the items alone decides"


def test_few_images_wait_whatever_their_sizes() -> None:
    """Each has another size: they must not pile up."""
    given = 0

    def counted() -> Iterator[Item]:
        nonlocal given
        for index in range(100):
            given += 1
            yield index, (16, index)

    run = 0
    for batch in gather_by_size(counted(), 4, itemgetter(1)):
        run += len(batch)
        assert given - run <= MAX_WAITING * 4
    assert run == 100


def test_a_batch_size_of_zero_is_refused() -> None:
    for group in (batches_of_one_size, gather_by_size):
        with pytest.raises(MisuseError, match="batch size is 0; wanted at least 1"):
            list(group([], 0, len))
