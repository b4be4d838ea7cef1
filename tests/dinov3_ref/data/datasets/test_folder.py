"""Image folders: order, hidden files, links, splits, classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinov3_ref.data.datasets import (
    ImageFolder,
    make_dataset,
)
from dinov3_ref.errors import DataError
from tests.support.image_files import NAMES, encoded, write_folder


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
