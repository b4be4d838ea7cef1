"""Image folders: order, hidden files, links, splits, classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinov3_ref.data.datasets import (
    ImageFolder,
    ImageList,
    make_dataset,
)
from dinov3_ref.errors import BrokenImage, DataError
from tests.support.images.image_datasets import write_list
from tests.support.images.image_files import NAMES, encoded, write_folder


def test_sorted_without_hidden_files_and_other_files(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/10.png", "a.jpg", ".hidden/x.jpg", "b/.x.jpg", "b/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded("coffee"))
    dataset = ImageFolder(tmp_path)
    assert [dataset.paths[index] for index in range(len(dataset))] == ["a.jpg", "b/10.png", "b/2.JPG"]
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert len(ImageFolder(tmp_path)) == 3
    with pytest.raises(DataError, match="has no class; wanted a folder for each class"):
        ImageFolder(tmp_path, labelled=True)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)

    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match=f"'{tmp_path}' cannot be listed: Permission denied"):
        ImageFolder(tmp_path)


def test_a_split_is_a_subfolder(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", NAMES[:3])
    assert len(ImageFolder(tmp_path, split="train")) == 3
    assert len(make_dataset(f"ImageFolder:root={tmp_path}:split=train")) == 3


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
