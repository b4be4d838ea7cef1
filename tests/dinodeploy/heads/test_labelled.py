"""Folders of labelled images: what is read, what is refused, and how they are split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.heads.labelled import (
    read_classified,
    read_mask,
    read_segmented,
    split_at_random,
    split_by_class,
)
from tests.support.images.labelled_images import write_digits, write_scenes


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "d", each=2, kinds=3)
    (root / ".cache").mkdir()
    (root / "readme.txt").write_text("x")
    found = read_classified(root)
    assert found.classes == ("digit_0", "digit_1", "digit_2")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert all(
        Path(id_).parent.name == found.classes[k] for id_, k in zip(found.ids, found.labels, strict=True)
    )


def test_folders_that_hold_too_little_are_refused(tmp_path: Path) -> None:
    write_digits(tmp_path / "one", each=1, kinds=1)
    with pytest.raises(MisuseError, match="holds 1 class folders; wanted at least two"):
        read_classified(tmp_path / "one")
    (tmp_path / "one" / "empty").mkdir()
    with pytest.raises(MisuseError, match="no image under"):
        read_classified(tmp_path / "one")
    with pytest.raises(MisuseError, match="is not a folder"):
        read_classified(tmp_path / "none")
    test = write_digits(tmp_path / "test", each=1, kinds=3)
    with pytest.raises(
        MisuseError, match="digit_2 is not a class of the training data; wanted digit_0, digit_1"
    ):
        read_classified(test, ("digit_0", "digit_1"))


def test_images_and_masks_are_paired(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "s", 3)
    found = read_segmented(root)
    assert found.names == ("retina", "coffee", "chelsea", "rocket")
    assert [path.stem for path in found.masks] == [Path(id_).stem for id_ in found.ids]
    mask = read_mask(found.masks[0])
    assert mask.shape == (120, 160)
    assert set(np.unique(mask)) <= {0, 1, 2, 3, 255}
    found.masks[1].unlink()
    with pytest.raises(MisuseError, match=r"images/01\.jpg has no mask; wanted .*masks/01\.png"):
        read_segmented(root)
    (root / "classes.txt").write_text("a\na\n")
    Image.new("L", (160, 120)).save(found.masks[1])
    with pytest.raises(MisuseError, match="holds 2 names; wanted different names"):
        read_segmented(root)


def test_masks_are_ids_not_colours(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [2, 255]], np.uint8)
    palette = Image.fromarray(ids)
    palette = palette.convert("P")
    palette.putdata(ids.ravel().tolist())
    palette.save(tmp_path / "p.png")
    assert (read_mask(tmp_path / "p.png") == ids).all()
    Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "16.png")
    assert (read_mask(tmp_path / "16.png") == ids).all()
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    for name, message in (
        ("rgb", "a mask of mode RGB"),
        ("broken", "cannot be read"),
        ("none", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=message):
            read_mask(tmp_path / f"{name}.png")


def test_splits_are_seeded_and_share_nothing() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 10)
    split = split_by_class(labels, ("a", "b", "c"), 0)
    parts = (split.train, split.validation, split.test)
    assert sorted(np.concatenate(parts)) == list(range(63))
    assert all(set(labels[part]) == {0, 1, 2} for part in parts)
    assert (len(split.test), len(split.validation)) == (10 + 1 + 2, 8 + 1 + 2)
    again, other = split_by_class(labels, ("a", "b", "c"), 0), split_by_class(labels, ("a", "b", "c"), 1)
    assert (again.test == split.test).all()
    assert (other.test != split.test).any()
    images = split_at_random(3, 0)
    assert sorted([*images.train, *images.validation, *images.test]) == [0, 1, 2]
