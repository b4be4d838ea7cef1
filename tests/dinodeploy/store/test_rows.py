"""Rows of an old store are found by the place of their image, and copied as they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinodeploy import BundleError
from dinodeploy.store.generations import load_old
from dinodeploy.store.manifest import read_manifest
from dinodeploy.store.rows import Old
from tests.support.stores import write_store

IDS = [f"{number}.jpg" for number in range(5)]


def made(out: Path) -> Old:
    rows = [{"cls": np.full(3, number + 0.1, np.float32)} for number in range(5)]
    write_store(out, IDS, [rows[0], "bad", *rows[2:]], dtype="int8")
    old, usable = load_old(out, read_manifest(out))
    assert usable == [True, True, True]
    return old


def test_a_place_is_a_shard_and_an_image(tmp_path: Path) -> None:
    old = made(tmp_path / "out")
    assert [old.find(place) for place in range(5)] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert [old.reason(place) for place in range(5)] == [None, "bad", None, None, None]
    for place in (0, 4, 2, 3, 0):
        columns, size = old.row(place)
        assert size == (640, 427)
        assert columns["cls"].dtype == np.int8
        np.testing.assert_allclose(columns["cls"] * columns["cls_scale"], place + 0.1, rtol=1e-6)


def test_a_listing_of_another_shard_is_refused(tmp_path: Path) -> None:
    old = made(tmp_path / "out")
    mixed = Old(old.root, old.manifest, [old.listings[1], old.listings[0], old.listings[2]])
    with pytest.raises(BundleError, match="has another number of rows than its listing"):
        mixed.row(0)
