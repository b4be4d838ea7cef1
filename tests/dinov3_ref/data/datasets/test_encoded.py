"""What all four datasets have in common, over the same photographs."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from dinov3_ref.data.datasets import (
    EncodedImages,
    ImageFolder,
    ImageList,
    ImageTable,
    TarShards,
    make_dataset,
)
from dinov3_ref.data.datasets.encoded import PackedText
from tests.support.images.image_datasets import CLASSES, WRITERS
from tests.support.images.image_files import NAMES, encoded


@pytest.fixture(params=WRITERS)
def text(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # for the cache of Parquet files
    (tmp_path / "data").mkdir()
    return WRITERS[request.param](tmp_path / "data")


def test_each_reads_every_photograph_with_its_class(text: str) -> None:
    dataset = make_dataset(text, labelled=True)
    assert len(dataset) == 6
    assert dataset.class_names == ("animate", "still")
    assert dataset.labels is not None
    assert sorted(dataset.labels.tolist()) == [0, 0, 1, 1, 1, 1]
    expected = {(encoded(name), CLASSES.get(name, "still")) for name in NAMES}
    found = {(dataset.read(index), dataset.class_names[dataset.labels[index]]) for index in range(6)}
    assert found == expected
    image, target = dataset[5]
    assert (image.mode, image.size) == ("RGB", (120, 90))
    assert target == dataset.labels[5]


def test_each_without_labels_and_with_a_transform(text: str) -> None:
    dataset = make_dataset(text, transform=lambda image: image.size)
    assert dataset[0] == ((120, 90), ())
    assert dataset.labels is None


def test_each_can_be_pickled_for_a_worker(text: str) -> None:
    dataset = make_dataset(text, labelled=True)
    dataset[0]
    data = pickle.dumps(dataset)
    assert len(data) < 20_000  # paths and offsets, no images: those are at least 6 x 5 kB
    copy = pickle.loads(data)
    assert copy.read(3) == dataset.read(3)


def test_all_have_one_base_class() -> None:
    assert all(issubclass(kind, EncodedImages) for kind in (ImageFolder, ImageList, TarShards, ImageTable))


def test_packed_text_is_a_list_of_strings() -> None:
    texts = ["", "a.jpg", "größe/ü.png", "\udcff.jpg"]
    packed = PackedText(texts)
    assert [packed[index] for index in range(len(packed))] == texts
    assert isinstance(packed.bytes, np.ndarray)
    for index in (-1, 4):
        with pytest.raises(IndexError):
            packed[index]
