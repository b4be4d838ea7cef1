"""`IdList`: many ids in little memory."""

from __future__ import annotations

import pickle
import tracemalloc

import pytest

from dinodeploy.sources.ids import IdList, repeats

NAMES = ["a", "", "ü/名.jpg", "\udcff.jpg", "a" * 300]


def test_a_list_is_a_sequence() -> None:
    ids = IdList(NAMES)
    assert len(ids) == 5
    assert list(ids) == NAMES
    assert [ids[-1], ids[0]] == [NAMES[-1], "a"]
    assert list(ids[1:4]) == NAMES[1:4]
    assert list(ids[::-2]) == NAMES[::-2]
    for index in (5, -6):
        with pytest.raises(IndexError):
            ids[index]
    assert list(IdList()) == []
    assert list(pickle.loads(pickle.dumps(ids))) == NAMES


def test_joined_lists_are_one_sequence() -> None:
    parts = [["a", "b"], [], IdList(["c"]), IdList(), ["d"]]
    joined = IdList.joined(parts)
    assert list(joined) == ["a", "b", "c", "d"]
    assert [joined[index] for index in (-1, 2, 0)] == ["d", "c", "a"]
    assert joined[1:3] == ["b", "c"]
    with pytest.raises(IndexError):
        joined[4]
    twice = IdList.joined([joined, joined])
    twice.append("e")
    assert list(twice) == ["a", "b", "c", "d", "a", "b", "c", "d", "e"]
    assert list(joined) == ["a", "b", "c", "d"]


def test_joining_shares_memory() -> None:
    parts = [IdList(f"{part}/{number:06d}.jpg" for number in range(20_000)) for part in range(5)]
    tracemalloc.start()
    joined = IdList.joined(parts)
    added, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(joined) == 100_000
    assert added < 10_000


def test_repeats_are_found_in_order() -> None:
    assert repeats(["a", "b", "c"]) == []
    assert repeats(["a", "b", "a", "c", "b", "a"]) == [(2, 0), (4, 1), (5, 0)]
    assert repeats([]) == []


def test_ten_million_ids_would_fit() -> None:
    count, length = 100_000, len("photos/000000.jpg")
    tracemalloc.start()
    ids = IdList(f"photos/{number:06d}.jpg" for number in range(count))
    now, peak = tracemalloc.get_traced_memory()
    assert repeats(ids) == []
    _, peak_repeats = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now / count < length + 8 + 5  # bytes per id: its own, an offset, and room to grow; measured 26.9
    assert peak / count < 2 * (length + 8)
    assert (peak_repeats - now) / count < 40  # measured 24: hashes, and their sorted copy
