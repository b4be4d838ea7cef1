"""Many ids in little memory."""

from __future__ import annotations

import tracemalloc

import pytest

from dinodeploy.sources.ids import ChosenIds, PackedIds, repeats
from dinodeploy.sources.mixture import JoinedIds

NAMES = ["a", "", "ü/名.jpg", "\udcff.jpg", "a" * 300]


def test_packed_ids_are_a_sequence() -> None:
    ids = PackedIds(NAMES)
    assert len(ids) == 5
    assert list(ids) == NAMES
    assert [ids[-1], ids[0]] == [NAMES[-1], "a"]
    assert list(ids[1:4]) == NAMES[1:4]
    assert list(ids[::-2]) == NAMES[::-2]
    for index in (5, -6):
        with pytest.raises(IndexError):
            ids[index]
    assert list(PackedIds()) == []


def test_joined_and_chosen_ids_are_sequences() -> None:
    joined = JoinedIds([["a", "b"], [], PackedIds(["c"]), ["d"]])
    assert list(joined) == ["a", "b", "c", "d"]
    assert [joined[index] for index in (-1, 2, 0)] == ["d", "c", "a"]
    assert joined[1:3] == ["b", "c"]
    with pytest.raises(IndexError):
        joined[4]
    chosen = ChosenIds(joined, [3, 1])
    assert (list(chosen), len(chosen), chosen[-1]) == (["d", "b"], 2, "b")


def test_repeats_are_found_in_order() -> None:
    assert repeats(["a", "b", "c"]) == []
    assert repeats(["a", "b", "a", "c", "b", "a"]) == [(2, 0), (4, 1), (5, 0)]
    assert repeats([]) == []


def test_ten_million_ids_would_fit() -> None:
    count, length = 100_000, len("photos/000000.jpg")
    tracemalloc.start()
    ids = PackedIds(f"photos/{number:06d}.jpg" for number in range(count))
    now, peak = tracemalloc.get_traced_memory()
    assert repeats(ids) == []
    _, peak_repeats = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now / count < length + 8 + 5  # bytes an id: its own, an offset, and room to grow; measured 26.9
    assert peak / count < 2 * (length + 8)
    assert (peak_repeats - now) / count < 40  # measured 24: hashes, and their sorted copy
