"""What a store records of its images, and what is refused when it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinodeploy import BundleError
from dinodeploy.files.tensors import save_tensors
from dinodeploy.store.listing import Listing, read_listing, write_listing

IDS = ["a.jpg", "", "caf\udce9.jpg", "line\nbreak.jpg"]


def listing() -> Listing:
    stamps = np.arange(12, dtype=np.int64).reshape(4, 3)
    return Listing(IDS, stamps, np.array([0, 1, 0, 0], np.uint8), {1: "bad"}, np.full((4, 32), 7, np.uint8))


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    write_listing(tmp_path / "listing/x.safetensors", listing())
    found = read_listing(tmp_path / "listing/x.safetensors")
    assert list(found.ids) == IDS
    np.testing.assert_array_equal(found.stamps, listing().stamps)
    assert found.absent.tolist() == [0, 1, 0, 0]
    assert (found.quarantined, found.has_row().tolist()) == ({1: "bad"}, [True, False, True, True])
    assert found.sha256 is not None
    empty = np.zeros(0, np.uint8)
    write_listing(tmp_path / "empty", Listing([], np.zeros((0, 3), np.int64), empty, {}))
    assert (list(read_listing(tmp_path / "empty").ids), read_listing(tmp_path / "empty").sha256) == ([], None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ends": np.array([1, 2, 3, 99], np.int64)}, "its ids do not fill their text"),
        ({"ends": np.array([5, 2, 9, 29], np.int64)}, "its ids do not fill their text"),
        ({"stamps": np.zeros((4, 2), np.int64)}, r"got stamps of int64 \[4, 2\]"),
        ({"absent": np.zeros(3, np.uint8)}, r"got absent of uint8 \[3\]"),
        ({"sha256": np.zeros((4, 31), np.uint8)}, r"got sha256 of uint8 \[4, 31\]"),
        ({"more": np.zeros(4, np.uint8)}, "got the tensors"),
        ({"ids": np.full(29, 255, np.uint8)}, "an id is not UTF-8"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]], message: str
) -> None:
    text = b"".join(id_.encode("utf-8", "surrogatepass") for id_ in IDS)
    good = {
        "ids": np.frombuffer(text, np.uint8),
        "ends": np.cumsum([len(id_.encode("utf-8", "surrogatepass")) for id_ in IDS]),
        "stamps": listing().stamps,
        "absent": listing().absent,
    }
    save_tensors(tmp_path / "good", good)
    assert list(read_listing(tmp_path / "good").ids) == IDS
    save_tensors(tmp_path / "bad", {**good, **change})
    with pytest.raises(BundleError, match=message):
        read_listing(tmp_path / "bad")
    for reasons in ('{"9": "x"}', '{"1": 2}', "[]", '{"-1": "x"}'):
        save_tensors(tmp_path / "bad", good, {"quarantined": reasons})
        with pytest.raises(BundleError, match="quarantined images that it does not list"):
            read_listing(tmp_path / "bad")
