"""The FAISS file: FAISS finds the same images as our index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.search import Index, build_index
from dinodeploy.search.faiss_file import export_faiss
from tests.support.indexed import clustered, ranked, store_of, vectors_of

pytest.importorskip("lance")
faiss = pytest.importorskip("faiss")


def test_faiss_finds_the_same_images(tmp_path: Path) -> None:
    vectors = vectors_of(30)
    vectors[4] = 0  # left out: rows and ids must not drift apart
    ids = store_of(tmp_path / "s", vectors, [f"é{n}\n" for n in range(30)])
    build_index(tmp_path / "s")
    with Index.open(tmp_path / "s") as index:
        written = export_faiss(index, tmp_path / "x.faiss")
    assert (written.kind, written.rows, written.recall) == ("IndexFlatIP", 29, 1.0)
    names = json.loads((tmp_path / "x.faiss.ids.json").read_text(encoding="utf-8"))
    made = faiss.read_index(str(tmp_path / "x.faiss"))
    kept = np.delete(vectors, 4, axis=0)
    query = vectors[7:8] / np.linalg.norm(vectors[7])
    cosines, rows = made.search(query, 5)
    assert [names[row] for row in rows[0]] == ranked(kept, vectors[7], [i for i in ids if i != ids[4]])[:5]
    assert cosines[0, 0] == pytest.approx(1, abs=1e-6)


def test_large_tables_use_ivf_pq_with_measured_recall(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    vectors = clustered(12_000, 32, clusters=300)
    store_of(tmp_path / "s", vectors, shard_size=5000)
    build_index(tmp_path / "s")
    with Index.open(tmp_path / "s") as index:
        written = export_faiss(index, tmp_path / "x.faiss", exact_below=1000)
    made = faiss.read_index(str(tmp_path / "x.faiss"))
    assert (written.kind, made.ntotal, made.nlist) == ("IndexIVFPQ", 12_000, 2)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.arange(0, 12_000, 400)
    nearest = np.argsort(-(unit[rows] @ unit.T), axis=1)[:, :11]
    _, got = made.search(unit[rows], 11)
    recall = np.mean([len(set(a) & set(b)) - 1 for a, b in zip(got, nearest, strict=True)]) / 10
    assert recall == pytest.approx(written.recall, abs=0.1)
    assert 0.2 < written.recall < 1
    assert capfd.readouterr().out == ""


def test_an_invalid_target_is_refused(tmp_path: Path) -> None:
    store_of(tmp_path / "s", vectors_of(2))
    build_index(tmp_path / "s")
    with Index.open(tmp_path / "s") as index:
        for path in (tmp_path, tmp_path / "no" / "x.faiss"):
            with pytest.raises(MisuseError, match="wanted a file in an existing folder"):
                export_faiss(index, path)
