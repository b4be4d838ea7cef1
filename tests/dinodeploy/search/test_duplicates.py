"""Near-duplicates: groups equal those of a plain search over all pairs; which image is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinodeploy.arrays import FloatArray
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.search import duplicates, find_duplicates
from tests.support.indexed import D, clustered, store_of, vectors_of
from tests.support.stores import write_store


def by_hand(vectors: FloatArray, threshold: float) -> set[frozenset[int]]:
    """Connected components by graph search."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    linked = unit @ unit.T >= threshold
    groups, seen = set(), set()
    for start in range(len(vectors)):
        if start in seen:
            continue
        group, pending = {start}, [start]
        while pending:
            new = set(np.flatnonzero(linked[pending.pop()]).tolist()) - group
            group |= new
            pending += new
        seen |= group
        if len(group) > 1:
            groups.add(frozenset(group))
    return groups


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 0.99])
def test_groups_equal_those_of_a_search_over_all_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, threshold: float
) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    vectors = clustered(150, 8, clusters=40, seed=3)
    ids = store_of(tmp_path / "s", vectors, shard_size=64)
    done: list[int] = []
    found = find_duplicates(tmp_path / "s", threshold=threshold, advance=lambda rows, _: done.append(rows))
    groups = {frozenset(ids.index(member.id) for member in group) for group in found.groups}
    assert groups == by_hand(vectors, threshold)
    assert done[-1] == 150
    assert sorted(map(len, found.groups), reverse=True) == [len(group) for group in found.groups]


def test_a_chain_is_one_group_and_keeps_its_largest_image(tmp_path: Path) -> None:
    angles = np.radians([0.0, 8, 15, 22, 90, 120])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ids = ["a", "b", "c", "d", "far", "farther"]
    sizes = [(10, 10), (30, 20), (20, 30), (5, 5), (99, 99), (99, 99)]
    write_store(tmp_path / "s", ids, [{"cls": row} for row in vectors], sizes=sizes)
    found = find_duplicates(tmp_path / "s", threshold=0.99)
    (group,) = found.groups
    assert [member.id for member in group] == ["b", "c", "a", "d"]  # b and c are equally large: the first id
    assert (group[0].width, group[0].height, group[0].cosine) == (30, 20, pytest.approx(1))
    assert group[3].cosine == pytest.approx(np.cos(np.radians(14)), abs=1e-6)
    assert found.drop == ["c", "a", "d"]


def test_copies_reach_a_threshold_of_one(tmp_path: Path) -> None:
    vectors = vectors_of(60, dim=384)
    vectors[40:] = vectors[:20] * np.float32(3.3)  # another length is the same direction
    store_of(tmp_path / "s", vectors)
    found = find_duplicates(tmp_path / "s", threshold=1)
    assert len(found.groups) == 20
    assert len(found.drop) == 20


def test_byte_equal_files_are_marked_as_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {"a.jpg": b"1234", "b.jpg": b"1234", "c.jpg": b"1235", "d.jpg": b"12345"}
    for name, content in contents.items():
        Path(name).write_bytes(content)
    ids = [*contents, "gone.jpg", "nul\0.jpg"]
    rows = [{"cls": np.ones(D, np.float32)}] * len(ids)
    write_store(tmp_path / "s", ids, rows)
    (group,) = find_duplicates(tmp_path / "s").groups
    assert [(member.id, member.copy) for member in group] == [
        ("a.jpg", False),
        ("b.jpg", True),
        ("c.jpg", False),
        ("d.jpg", False),
        ("gone.jpg", False),
        ("nul\0.jpg", False),
    ]


def test_zero_vectors_are_left_out(tmp_path: Path) -> None:
    vectors = np.zeros((5, D), np.float32)
    vectors[4] = 1
    store_of(tmp_path / "s", vectors)
    found = find_duplicates(tmp_path / "s")
    assert (found.rows, found.left_out, found.groups) == (1, 4, [])


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_thresholds_out_of_range_are_refused(tmp_path: Path, threshold: float) -> None:
    store_of(tmp_path / "s", vectors_of(2))
    with pytest.raises(MisuseError, match="wanted a cosine above 0, at most 1"):
        find_duplicates(tmp_path / "s", threshold=threshold)


def test_an_empty_store_and_another_output(tmp_path: Path) -> None:
    write_store(tmp_path / "empty", ["a"], ["broken"])
    with pytest.raises(MisuseError, match="has no embeddings"):
        find_duplicates(tmp_path / "empty")
    store_of(tmp_path / "s", vectors_of(2))
    with pytest.raises(BundleError, match="no output 'pooled'"):
        find_duplicates(tmp_path / "s", output="pooled")
