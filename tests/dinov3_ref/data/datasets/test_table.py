"""Parquet and Arrow tables: the cache, class names, columns, damaged files, no pyarrow."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinov3_ref.data.datasets import (
    ImageTable,
)
from dinov3_ref.errors import BrokenImage, DataError
from tests.support.images.image_datasets import table_of, write_arrow, write_parquet
from tests.support.images.image_files import NAMES, encoded


def test_parquet_is_converted_to_arrow_once(tmp_path: Path) -> None:
    text = write_parquet(tmp_path)
    ImageTable(text, cache=tmp_path / "cache")
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(first) == 2
    ImageTable(text, cache=tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == first
    pq.write_table(table_of(NAMES[:1]), tmp_path / "part-0.parquet")  # another file of the same name
    assert len(ImageTable(text, cache=tmp_path / "cache")) == 3


def test_huggingface_class_names(tmp_path: Path) -> None:
    metadata = {"huggingface": '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'}
    table = pa.table({"img": [encoded("chelsea")] * 2, "label": [1, 0]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = ImageTable(tmp_path / "a.parquet", labelled=True, cache=tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0]


def test_missing_columns_empty_cells_and_damaged_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"photo": [encoded("china"), None], "label": [1, None]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="columns photo, label; wanted image or"):
        ImageTable(tmp_path / "a.parquet", cache=tmp_path)
    dataset = ImageTable(tmp_path / "a.parquet", image="photo", cache=tmp_path)
    assert dataset[0][0].size == (120, 90)
    with pytest.raises(BrokenImage, match="row 1' cannot be read: column 'photo' has no bytes"):
        dataset[1]
    with pytest.raises(DataError, match="rows without 'label'"):
        ImageTable(tmp_path / "a.parquet", image="photo", labelled=True, cache=tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be converted to"):
        ImageTable(tmp_path / "b.parquet", cache=tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []
    (tmp_path / "b.arrow").write_bytes(b"nothing at all")
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        ImageTable(tmp_path / "b.arrow")


def test_tables_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = write_arrow(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'dinodeploy\[parquet\]'"):
        ImageTable(text)
