"""Parquet files: chunks, memory, and files that are closed again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dinodeploy.sources import open_source
from dinodeploy.sources.tables import parquet
from tests.dinodeploy.sources.reading import Pixels, assert_same, read_by_threads
from tests.support.images.image_tables import ROWS, table

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize("groups", [1, 7, ROWS])
def test_chunks_of_any_size_give_the_same(
    groups: int, wanted: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "CHUNK_BYTES", 20_000)  # a few images, and fewer kept than there are
    monkeypatch.setattr(parquet, "CHUNKS_KEPT", 2)
    pq.write_table(table(), "a.parquet", row_group_size=-(-ROWS // groups))
    source = open_source(["a.parquet"])
    assert_same(read_by_threads(source), wanted)
    source.close()


def test_large_row_group_is_read_once_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "CHUNK_BYTES", 20_000)
    pq.write_table(table(), "a.parquet")
    part: Any = open_source(["a.parquet"])
    started = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, *a, **k: started.append(1) or original(self, *a, **k)
    )
    for row in range(ROWS):
        part.image(row)
    assert len(started) == 1


def test_large_row_group_stays_on_disk() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6000, 20_000), np.uint8)
    pq.write_table(pa.table({"image": [row.tobytes() for row in noise]}), "a.parquet", row_group_size=6000)
    source = open_source(["a.parquet"])
    before, most = pa.total_allocated_bytes(), 0
    for row in (0, 1, 400, 39, 5999, 3):
        assert source.image(row) == noise[row].tobytes()
        most = max(most, pa.total_allocated_bytes() - before)
    source.close()
    assert most < 80_000_000  # of 120 million; 58 measured, of 240 too


def test_many_tables_do_not_stay_open(wanted: list[Pixels]) -> None:
    for number in range(9):
        pq.write_table(table(), f"{number}.parquet")
    source: Any = open_source(["*.parquet"])
    assert_same(read_by_threads(source), wanted * 9)
    assert sum(part.is_open for part in source.parts) <= 8  # four, and those that eight threads were reading
    for row in range(0, 9 * ROWS, ROWS):
        source.image(row)
    assert sum(part.is_open for part in source.parts) == 4
    source.close()
    assert not any(part.is_open for part in source.parts)
