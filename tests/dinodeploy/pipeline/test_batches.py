"""Pictures of one size meet in a batch, none is lost, and few wait."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dinodeploy.pipeline.batches import MOST_WAITING, bucket, stack
from dinodeploy.pipeline.decode import Decoded


def items_of(sides: list[tuple[int, int]]) -> list[Decoded]:
    return [
        Decoded(str(index), np.full((3, *side), index, np.float32), side, position=index)
        for index, side in enumerate(sides)
    ]


def positions(batches: list[list[Decoded]]) -> list[list[int]]:
    return [[item.position for item in batch] for batch in batches]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_of_one_size_the_listing_is_cut_up(batch_size: int) -> None:
    got = positions(list(bucket(items_of([(16, 32)] * 7), batch_size)))
    assert got == [list(range(7))[i : i + batch_size] for i in range(0, 7, batch_size)]


def test_sizes_are_gathered_over_their_neighbours() -> None:
    a, b = (16, 32), (32, 16)
    assert positions(list(bucket(items_of([a, b, a, b, b, a, a]), 3))) == [[1, 3, 4], [0, 2, 5], [6]]


def test_no_batch_mixes_sizes_and_none_is_lost() -> None:
    rng = random.Random(0)
    sides = [(16 * rng.randint(1, 9), 16 * rng.randint(1, 9)) for _ in range(500)]
    batches = list(bucket(items_of(sides), 8))
    assert sorted(position for batch in positions(batches) for position in batch) == list(range(500))
    assert all(len({sides[position] for position in batch}) == 1 for batch in positions(batches))
    assert positions(batches) == positions(list(bucket(items_of(sides), 8))), "the listing alone decides"


def test_few_pictures_wait_whatever_their_sizes() -> None:
    """Every one of another size: they must not pile up."""
    given = 0

    def counted() -> object:
        nonlocal given
        for item in items_of([(16, 16 * (1 + index)) for index in range(100)]):
            given += 1
            yield item

    run = 0
    for batch in bucket(counted(), 4):  # type: ignore[arg-type]
        run += len(batch)
        assert given - run <= MOST_WAITING * 4
    assert run == 100


def test_a_batch_is_stacked_in_order() -> None:
    pixels = stack(items_of([(2, 3)] * 4))
    assert pixels.shape == (4, 3, 2, 3)
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
