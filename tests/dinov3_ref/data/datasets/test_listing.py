"""Image lists: labels, missing files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinov3_ref.data.datasets import (
    ImageList,
)
from dinov3_ref.errors import BrokenImage, DataError
from tests.support.image_datasets import write_list


def test_class_names_that_are_numbers_sort_as_numbers(tmp_path: Path) -> None:
    lines = [f"x.jpg\t{label}\n" for label in (10, 9, 2, 9)]
    (tmp_path / "list.txt").write_text("".join(lines))
    dataset = ImageList(tmp_path / "list.txt", labelled=True)
    assert dataset.class_names == ("2", "9", "10")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 1, 0, 1]


def test_a_list_without_labels(tmp_path: Path) -> None:
    path = write_list(tmp_path, separator="")
    assert len(ImageList(path)) == 6
    with pytest.raises(DataError, match=r"no label; wanted path<TAB>label on every line"):
        ImageList(path, labelled=True)


def test_a_missing_image_is_broken(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("gone.jpg\n")
    with pytest.raises(BrokenImage, match=r"gone\.jpg' cannot be read: No such file"):
        ImageList(tmp_path / "list.txt")[0]
