"""Folders saved by Hugging Face datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.sources import SourceOptions, open_source
from tests.dinodeploy.sources.reading import Pixels, assert_same, read_all, read_by_threads
from tests.support.images.image_tables import IMAGES, ROWS


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = {"image": datasets.Image(), "name": datasets.Value("string")}
    rows = {
        "image": [{"bytes": data, "path": None} for data in IMAGES],
        "name": [f"n{row}" for row in range(ROWS)],
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def test_saved_dataset(saved: Any, wanted: list[Pixels]) -> None:
    saved.save_to_disk("ds")
    source = open_source(["ds"])
    assert source.ids[-1] == f"ds#{ROWS - 1}"
    assert_same(read_by_threads(source), wanted)
    source.close()
    assert list(open_source(["ds"], SourceOptions(id_column="name")).ids)[:2] == ["n0", "n1"]
    saved.select([7, 2]).save_to_disk("picked")
    assert_same(list(read_all("picked").values()), [wanted[7], wanted[2]])
    with pytest.raises(MisuseError, match="has no column 'nope'"):
        open_source(["ds"], SourceOptions(column="nope"))
    Path("ds/data-00000-of-00001.arrow").write_bytes(b"?")
    with pytest.raises(MisuseError, match="'ds' cannot be read as a dataset"):
        open_source(["ds"])


def test_splits_of_a_saved_dataset(saved: Any, wanted: list[Pixels]) -> None:
    import datasets

    splits = {"train": saved.select(range(3)), "test": saved.select(range(3, 5))}
    datasets.DatasetDict(splits).save_to_disk("ds")
    seen = read_all("ds")
    assert list(seen) == ["ds/train#0", "ds/train#1", "ds/train#2", "ds/test#0", "ds/test#1"]
    assert_same(list(seen.values()), wanted[:5])
    assert list(read_all("ds/test")) == ["ds/test#0", "ds/test#1"]
