"""Images are checked once; the split depends on their content and the seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import MisuseError
from dinodeploy.heads.verified import split_by_content, verify


def paint(path: Path, grey: int) -> str:
    Image.new("RGB", (6, 4), (grey, grey, grey)).save(path)
    return str(path)


def test_broken_images_are_quarantined(tmp_path: Path) -> None:
    ids = [paint(tmp_path / f"{grey}.png", grey) for grey in range(3)]
    (tmp_path / "1.png").write_bytes(b"\x89PNG broken")
    found = verify([*ids, str(tmp_path / "gone.png")])
    assert found.rows.tolist() == [0, 2]
    assert len(set(found.digests)) == 2
    assert [id_ for id_, _ in found.quarantined] == [ids[1], str(tmp_path / "gone.png")]
    with pytest.raises(MisuseError, match="none of 1 images can be read"):
        verify(ids[1:2])


def test_masks_are_counted_and_checked(tmp_path: Path) -> None:
    ids = [paint(tmp_path / f"{grey}.png", grey) for grey in range(2)]
    masks = [tmp_path / "m0.png", tmp_path / "m1.png"]
    Image.fromarray(np.array([[0, 1, 1, 255, 0, 0]] * 4, np.uint8)).save(masks[0])
    Image.new("L", (5, 4)).save(masks[1])
    found = verify(ids, masks)
    assert found.rows.tolist() == [0]
    assert found.pixels[0][[0, 1, 255]].tolist() == [12, 8, 4]
    assert "its image has 6x4" in found.quarantined[0][1]


def test_the_order_of_images_does_not_change_the_split() -> None:
    digests = [f"{n:064x}" for n in range(50)]
    split = split_by_content(digests, 0)
    assert sorted(np.concatenate([split.train, split.validation, split.test])) == list(range(50))
    assert (len(split.test), len(split.validation)) == (10, 8)
    order = np.random.default_rng(1).permutation(50)
    moved = split_by_content([digests[row] for row in order], 0)
    assert {digests[row] for row in split.test} == {digests[order[row]] for row in moved.test}
    assert set(split_by_content(digests, 1).test) != set(split.test)
    assert not len(split_by_content(digests, 0, test=False).test)


def test_copies_stay_together_and_every_class_is_in_every_part() -> None:
    digests = [f"{n // 2:064x}" for n in range(40)]  # each image twice
    labels = np.repeat([0, 1], [34, 6])
    split = split_by_content(digests, 0, labels=labels)
    for part in (split.train, split.validation, split.test):
        assert set(labels[part]) == {0, 1}
        assert all((row ^ 1) in part for row in part)
    with pytest.raises(MisuseError, match="2 different readable images of class number 1"):
        split_by_content(digests[:38], 0, labels=labels[:38])
