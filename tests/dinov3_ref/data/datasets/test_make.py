"""Datasets opened from a string; errors for unknown and empty ones."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinov3_ref.data.datasets import (
    ImageFolder,
    ImageList,
    ImageTable,
    TarShards,
    make_dataset,
)
from dinov3_ref.errors import DataError
from tests.support.images.image_files import write_folder, write_tar


def test_the_official_form_takes_colons_and_equals_in_a_path(tmp_path: Path) -> None:
    root = tmp_path / "a:b=c"
    write_folder(root / "val")
    assert len(make_dataset(f"ImageFolder:root={root}:split=val")) == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere", "'nowhere' is not a dataset; wanted a folder, a file ending in"),
        ("ImageNet:split=TRAIN", "names no folder; add it: ImageNet:split=TRAIN:root=FOLDER"),
        ("ImageNet:split=TRIAN:root=x", r"wanted ImageNet: with root=FOLDER and split=TRAIN\|VAL\|TEST"),
        ("NYU:split=TRAIN", "names no folder; add it: NYU:split=TRAIN:root=FOLDER"),
        ("KITTI:split=TRAIN", "wanted a folder, .* NAME of ImageFolder, .*CocoCaptions.*, NYU"),
        ("ImageFolder:split=train", "wanted root"),
        ("ImageFolder:root=nowhere", "'nowhere' is not a folder"),
        ("nowhere.tar", "'nowhere.tar' matches no file"),
        ("nowhere-*.parquet", "matches no file"),
        ("nowhere.txt", "'nowhere.txt' cannot be read: No such file"),
    ],
)
def test_text_that_names_no_dataset(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        make_dataset(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("ImageNet:split=TRAIN", "train"),
        ("ImageNet:split=VAL:extra=tables", "val"),
        ("ImageNet22k", ""),
        ("ADE20K:split=TRAIN", "images/training"),
        ("CocoCaptions:split=VAL", "val2017"),
    ],
)
def test_official_datasets(text: str, folder: str, tmp_path: Path) -> None:
    write_folder(tmp_path / folder)
    assert len(make_dataset(f"{text}:root={tmp_path}")) == 6


def test_classes_of_official_datasets(tmp_path: Path) -> None:
    write_folder(tmp_path / "train" / "n01440764")
    dataset = make_dataset(f"ImageNet:split=TRAIN:root={tmp_path}", labelled=True)
    assert list(dataset.class_names) == ["n01440764"]
    with pytest.raises(DataError, match="has no classes; labelled images need one of ImageNet"):
        make_dataset(f"CocoCaptions:root={tmp_path}", labelled=True)


def test_empty_datasets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    write_tar(tmp_path / "empty.tar", {"a.json": b"{}"})
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "empty.parquet")
    for build in (
        lambda: ImageFolder(tmp_path / "nothing"),
        lambda: ImageList(tmp_path / "empty.txt"),
        lambda: TarShards(tmp_path / "empty.tar"),
        lambda: ImageTable(tmp_path / "empty.parquet", cache=tmp_path),
    ):
        (tmp_path / "nothing").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="no image in"):
            build()
