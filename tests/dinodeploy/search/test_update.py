"""An updated index finds what a new one finds, whatever changed; a killed update leaves the old one."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.errors import BundleError, MisuseError, TamperedError
from dinodeploy.search import Index, build_index, update_index
from dinodeploy.search import approximate as approximates
from tests.support.indexed import D, clustered, ranked, store_of, vectors_of
from tests.support.stores import write_store

pytest.importorskip("lance")


class Photos:
    """Ids and vectors that change, and the store made of them."""

    def __init__(self, out: Path, count: int, **options: Any) -> None:
        self.out, self.options = out, options
        self.vectors = dict(zip((f"p{n}.jpg" for n in range(count)), vectors_of(count), strict=True))
        self.rng = random.Random(1)
        self.made = count
        self.write()

    def write(self) -> None:
        ids = sorted(self.vectors)
        if self.out.exists():
            shutil.rmtree(self.out)
        rows = [{"cls": self.vectors[id_]} for id_ in ids]
        sizes = [(600 + len(id_), 400) for id_ in ids]
        write_store(self.out, ids, rows, sizes=sizes, **self.options)

    def change(self, added: int, replaced: int, removed: int) -> None:
        ids = self.rng.sample(sorted(self.vectors), replaced + removed)
        for number, id_ in enumerate(ids):
            if number < removed:
                del self.vectors[id_]
            else:
                self.vectors[id_] = vectors_of(1, seed=self.rng.randrange(10**6))[0]
        for _ in range(added):
            self.vectors[f"p{self.made}.jpg"] = vectors_of(1, seed=self.made)[0]
            self.made += 1
        self.write()


def all_hits(store: Path, k: int = 1000) -> list[Any]:
    with Index.open(store) as index:
        return [index.search(query, k, exact=True) for query in vectors_of(3, seed=77)]


def hits_of_a_new_index(photos: Photos, folder: Path, **options: Any) -> list[Any]:
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(photos.out, folder / "s")
    build_index(folder / "s", **options)
    return all_hits(folder / "s")


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    photos = Photos(tmp_path / "s", 200, shard_size=30)
    build_index(photos.out)
    return photos


@pytest.mark.parametrize("changes", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (5, 6, 7), (20, 0, 0), (0, 0, 20)])
def test_an_updated_index_equals_a_new_one(
    photos: Photos, tmp_path: Path, changes: tuple[int, int, int]
) -> None:
    photos.change(*changes)
    with pytest.raises(TamperedError, match=r"has changed since it was indexed.*--update"):
        Index.open(photos.out)
    done = update_index(photos.out)
    assert (done.added, done.replaced, done.removed, done.rebuilt) == (*changes, "")
    assert all_hits(photos.out) == hits_of_a_new_index(photos, tmp_path / "new")
    assert update_index(photos.out).manifest == done.manifest
    versions = list((tmp_path / "s.index" / "images.lance" / "_versions").glob("*.manifest"))
    assert len(versions) == 1, "older versions are removed"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_ten_updates_one_after_the_other(photos: Photos, tmp_path: Path) -> None:
    for _ in range(10):
        photos.change(6, 3, 4)
        assert update_index(photos.out).rebuilt == ""
    assert all_hits(photos.out) == hits_of_a_new_index(photos, tmp_path / "new")


def test_the_store_in_another_order_or_format_changes_no_row(photos: Photos) -> None:
    before = all_hits(photos.out)
    photos.options = {"shard_size": 64, "format": "npz"}
    photos.write()
    done = update_index(photos.out)
    assert (done.added, done.replaced, done.removed, done.rebuilt) == (0, 0, 0, "")
    assert all_hits(photos.out) == before


def test_many_changes_build_it_anew(photos: Photos, tmp_path: Path) -> None:
    photos.change(10, 5, 6)
    assert update_index(photos.out).rebuilt == "more than 10% of its rows changed"
    assert all_hits(photos.out) == hits_of_a_new_index(photos, tmp_path / "new")


def test_without_an_index_it_is_built(tmp_path: Path) -> None:
    photos = Photos(tmp_path / "s", 9)
    done = update_index(photos.out)
    assert (done.added, done.rebuilt) == (9, "there was no index")
    with pytest.raises(BundleError, match=r"holds no embeddings\.json"):
        update_index(tmp_path / "nowhere")


def test_vectors_that_became_zero_leave_the_index(photos: Photos, tmp_path: Path) -> None:
    photos.vectors["p7.jpg"] = np.zeros(D, np.float32)
    photos.write()
    done = update_index(photos.out)
    assert (done.removed, done.manifest.left_out, done.manifest.rows) == (1, 1, 199)
    assert all_hits(photos.out) == hits_of_a_new_index(photos, tmp_path / "new")


def test_ids_that_need_quotes(tmp_path: Path) -> None:
    odd = ["line\nbreak.jpg", "it's 😀.png", 'quote ".jpg', r"back\slash.jpg", "%_.jpg", " ", "\udc80.jpg"]
    vectors = vectors_of(200)
    store_of(tmp_path / "s", vectors, [*odd, *(f"p{n}" for n in range(193))])
    build_index(tmp_path / "s")
    changed = np.concatenate([vectors_of(7, seed=4), vectors[7:]])
    store_of(tmp_path / "s", changed, [*odd, *(f"p{n}" for n in range(193))], overwrite=True)
    assert update_index(tmp_path / "s").replaced == 7
    with Index.open(tmp_path / "s") as index:
        for name, vector in zip(odd, changed, strict=False):
            assert index.vector(name) @ vector == pytest.approx(np.linalg.norm(vector), rel=1e-5)
        assert len(index.ids()) == 200


def test_metadata_follows_too(photos: Photos, tmp_path: Path) -> None:
    table = tmp_path / "m.csv"

    def write(label: str, names: list[str]) -> None:
        lines = [f"{id_},{label if id_ in names else 'old'},{id_[1:-4]}" for id_ in sorted(photos.vectors)]
        table.write_text("id,label,number\n" + "\n".join(lines) + "\n")

    write("old", [])
    build_index(photos.out, metadata=table, overwrite=True)
    photos.change(3, 3, 3)
    moved = table.rename(tmp_path / "n.csv")
    with pytest.raises(MisuseError, match=r"has columns of .*m\.csv, which is not there; give .*--metadata"):
        update_index(photos.out)
    moved.rename(table)
    write("new", sorted(photos.vectors)[:4])
    done = update_index(photos.out)
    assert done.rebuilt == ""
    assert 4 <= done.replaced <= 7
    assert all_hits(photos.out) == hits_of_a_new_index(photos, tmp_path / "new", metadata=table)
    with Index.open(photos.out) as index:
        assert len(index.search(vectors_of(1), 99, filter="label = 'new'")[0]) == 4
    table.write_text(table.read_text().replace("number", "price"))
    assert update_index(photos.out, metadata=table).rebuilt == "its metadata columns are others"
    assert all_hits(photos.out) == hits_of_a_new_index(photos, tmp_path / "new", metadata=table)


def test_another_model_or_another_store_is_refused(photos: Photos, tmp_path: Path) -> None:
    before = json.loads((tmp_path / "s.index" / "index.json").read_text())
    photos.options["fingerprint"] = {"model": "y"}
    photos.write()
    with pytest.raises(
        MisuseError, match=r"embedded again by another engine \(model: x, now y\).*--overwrite"
    ):
        update_index(photos.out)
    del photos.options["fingerprint"]
    photos.write()
    with pytest.raises(MisuseError, match="is of output 'cls', got 'pooled'"):
        update_index(photos.out, output="pooled")
    photos.vectors = {f"other{n}": row for n, row in enumerate(vectors_of(30, seed=5))}
    photos.write()
    with pytest.raises(MisuseError, match="has no image of its index, which is of other embeddings"):
        update_index(photos.out)
    photos.vectors = dict(zip("abc", vectors_of(3, dim=D + 1), strict=True))
    photos.write()
    with pytest.raises(MisuseError, match="has dimension 13, its index 12"):
        update_index(photos.out)
    assert json.loads((tmp_path / "s.index" / "index.json").read_text()) == before


def test_a_damaged_index_is_not_updated(photos: Photos, tmp_path: Path) -> None:
    photos.change(1, 1, 1)
    (path,) = (tmp_path / "s.index" / "images.lance" / "data").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    with pytest.raises(TamperedError, match="is not the file that was written"):
        update_index(photos.out)


def test_an_approximate_index_keeps_its_recall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximates, "PARTITION", 100)
    vectors = clustered(2300, 32, clusters=60)
    ids = [f"p{n}" for n in range(2300)]

    def write(rows: range) -> None:
        stored = [{"cls": vectors[row]} for row in rows]
        write_store(tmp_path / "s", [ids[row] for row in rows], stored, shard_size=500, overwrite=True)

    write(range(2100))
    build_index(tmp_path / "s", exact_below=1000)
    write(range(100, 2200))
    done = update_index(tmp_path / "s", exact_below=1000)
    assert (done.rebuilt, done.added, done.removed) == ("", 100, 100)
    write(range(200, 2300))
    done = update_index(tmp_path / "s", exact_below=1000)
    assert (done.rebuilt, done.added, done.removed) == ("", 100, 100)
    kept = range(200, 2300)
    ids = [ids[row] for row in kept]
    how = done.manifest.approximate
    assert how is not None
    assert how.recall >= approximates.TARGET
    with Index.open(tmp_path / "s") as index:
        queries = clustered(20, 32, clusters=60, seed=0)
        truth = [ranked(vectors[200:], query, ids)[:10] for query in queries]
        shared = [
            len({hit.id for hit in index.search(q)[0]} & set(t)) for q, t in zip(queries, truth, strict=True)
        ]
        assert sum(shared) / 200 >= 0.9
        assert [[hit.id for hit in index.search(q, exact=True)[0]] for q in queries] == truth


class Killed(BaseException):
    """As kill -9: nothing after it runs but what Python itself unwinds."""


def test_an_update_interrupted_anywhere_leaves_the_old_index(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before every call that changes files."""
    before = {path: path.read_bytes() for path in (tmp_path / "s.index").rglob("*") if path.is_file()}
    photos.change(2, 2, 2)
    for place in interruptions(monkeypatch):
        with pytest.raises(Killed):
            update_index(photos.out)
        assert {path: path.read_bytes() for path in before} == before, place
    update_index(photos.out)
    assert all_hits(photos.out) == hits_of_a_new_index(photos, tmp_path / "new")


def interruptions(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    for place in (
        "dinodeploy.search.update.shutil.copy2",
        "dinodeploy.search.update.append_table",
        "dinodeploy.search.update.write_index_manifest",
        "dinodeploy.files.atomic.sync_tree",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, killed)
            yield place


CHILD = """
import sys
from dinodeploy.search import update_index
import lance
print("ready", flush=True)
sys.stdin.readline()
update_index(sys.argv[1])
print("done", flush=True)
"""


@pytest.mark.slow
def test_an_update_killed_at_random_moments(photos: Photos, tmp_path: Path) -> None:
    """kill -9: the index is the old one or the new one, and the next update completes it."""
    before = json.loads((tmp_path / "s.index" / "index.json").read_text())
    shutil.copytree(tmp_path / "s.index", tmp_path / "old")
    photos.change(6, 6, 6)
    rng, kills, whole = random.Random(3), 0, 0.0
    for attempt in range(13):
        shutil.rmtree(tmp_path / "s.index")
        shutil.copytree(tmp_path / "old", tmp_path / "s.index")
        command = [sys.executable, "-c", CHILD, str(photos.out)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            child.stdin.write("\n")
            child.stdin.flush()
            started = time.perf_counter()
            if attempt:
                time.sleep(rng.uniform(0, whole))
                child.kill()
            finished = child.stdout.readline() == "done\n"
            whole = min(whole or 60, time.perf_counter() - started) if finished else whole
        kills += not finished
        found = json.loads((tmp_path / "s.index" / "index.json").read_text())
        assert found == before or (found["rows"] == 200 and found["store_sha256"] != before["store_sha256"])
        assert update_index(photos.out).manifest.rows == 200
        assert all_hits(photos.out) == hits_of_a_new_index(photos, tmp_path / "new")
    assert kills >= 6
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".s.index")] == []
