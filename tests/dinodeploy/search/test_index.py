"""Index and search: results equal plain cosines; stale, damaged and foreign indexes are refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.errors import BundleError, MisuseError, OutputExistsError, TamperedError, UnavailableError
from dinodeploy.search import Index, build_index, find_duplicates
from dinodeploy.search import approximate as approximates
from dinodeploy.search.query import differences
from tests.support.indexed import D, clustered, ranked, store_of, vectors_of
from tests.support.stores import write_store

pytest.importorskip("lance")

ODD = ["line\nbreak.jpg", "it's 😀.png", 'quote ".jpg', "back\\slash.jpg", "%_.jpg", " ", "ΟΔΟΣ.jpg"]


def found(index: Index, query: Any, k: int = 10, **options: Any) -> list[str]:
    (hits,) = index.search(query, k, **options)
    return [hit.id for hit in hits]


@pytest.mark.parametrize("format", ["npy", "parquet", "lance", "safetensors", "npz"])
def test_the_nearest_images_in_order(tmp_path: Path, format: str) -> None:
    vectors = vectors_of(40)
    ids = store_of(tmp_path / "s", vectors, [*ODD, *(f"p{n}" for n in range(33))], format=format)
    manifest = build_index(tmp_path / "s")
    assert (manifest.rows, manifest.dim, manifest.left_out, manifest.approximate) == (40, D, 0, None)
    with Index.open(tmp_path / "s") as index:
        for query in vectors_of(5, seed=1):
            assert found(index, query, 40) == ranked(vectors, query, ids)
        (hits,) = index.search(vectors[3] * 1e-30, 2)
        assert (hits[0].rank, hits[0].id, hits[0].width, hits[0].height) == (1, ODD[3], 603, 400)
        assert hits[0].cosine == pytest.approx(1, abs=1e-7)
        assert [index.vector(name) @ vectors[n] > 0 for n, name in enumerate(ODD)] == [True] * len(ODD)
        assert len(index) == 40
        assert index.ids() == ids


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_stores_of_normalized_vectors_have_the_same_neighbours(tmp_path: Path, dtype: str) -> None:
    vectors = vectors_of(30)
    vectors[4], vectors[9] = 0, vectors[8] * 2
    answers = []
    for normalize in (False, True):
        out = tmp_path / f"{normalize}"
        store_of(out, vectors, normalize=normalize, dtype=dtype)
        assert build_index(out).left_out == 1
        with Index.open(out) as index:
            answers.append([found(index, query, 5) for query in vectors_of(8, seed=1)])
        (group,) = find_duplicates(out, threshold=0.9999).groups
        assert {member.id for member in group} == {"p8.jpg", "p9.jpg"}
    assert answers[0] == answers[1]


def test_several_queries_and_k_beyond_the_number_of_rows(tmp_path: Path) -> None:
    store_of(tmp_path / "s", vectors_of(3))
    build_index(tmp_path / "s")
    with Index.open(tmp_path / "s") as index:
        answers = index.search(vectors_of(2, seed=5), 1000)
        assert [len(hits) for hits in answers] == [3, 3]
        assert index.search(np.zeros((0, D), np.float32)) == []


def test_equal_vectors_are_ordered_by_id(tmp_path: Path) -> None:
    """More equal rows than a search fetches at first, written in random order."""
    vectors = vectors_of(300)
    equal = np.random.default_rng(2).permutation(300)[:150]
    vectors[equal] = vectors[equal[0]]
    ids = store_of(tmp_path / "s", vectors, shard_size=64)
    build_index(tmp_path / "s")
    with Index.open(tmp_path / "s") as index:
        assert found(index, vectors[equal[0]], 5) == sorted(ids[n] for n in equal)[:5]
        first = index.search(vectors[equal[0]], 200)
        assert index.search(vectors[equal[0]], 200) == first


def test_one_row_and_zero_vectors(tmp_path: Path) -> None:
    store_of(tmp_path / "one", vectors_of(1))
    build_index(tmp_path / "one")
    with Index.open(tmp_path / "one") as index:
        assert found(index, vectors_of(1, seed=3)) == ["p0.jpg"]
        assert found(index, vectors_of(1), without=["p0.jpg"]) == []
    vectors = vectors_of(5)
    vectors[2] = 0
    store_of(tmp_path / "zero", vectors)
    assert build_index(tmp_path / "zero").left_out == 1
    with Index.open(tmp_path / "zero") as index:
        assert "p2.jpg" not in found(index, vectors[1])
        with pytest.raises(MisuseError, match="1 images with a zero vector"):
            index.vector("p2.jpg")


def test_a_store_without_usable_vectors_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "empty", ["a", "b"], ["broken", "broken"])
    store_of(tmp_path / "zeros", np.zeros((3, D), np.float32))
    for name, words in (("empty", "has no embeddings"), ("zeros", "all 3 vectors are zero")):
        with pytest.raises(MisuseError, match=words):
            build_index(tmp_path / name)
    with pytest.raises(BundleError, match=r"holds no embeddings\.json"):
        build_index(tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "zeros"]


def test_only_vectors_can_be_indexed(tmp_path: Path) -> None:
    rows = [{"cls": row, "patch": np.ones((2, 3, D), np.float32)} for row in vectors_of(2)]
    write_store(tmp_path / "s", ["a", "b"], rows, outputs=("cls", "patch"))
    with pytest.raises(MisuseError, match="wanted one vector per image"):
        build_index(tmp_path / "s", output="patch")
    with pytest.raises(BundleError, match="no output 'pooled', only cls, patch"):
        build_index(tmp_path / "s", output="pooled")


def test_filters_and_metadata(tmp_path: Path) -> None:
    vectors = vectors_of(20)
    ids = store_of(tmp_path / "s", vectors)
    lines = [f"{id_},{'odd' if n % 2 else 'Even'},{n}" for n, id_ in enumerate(ids[:15])]
    (tmp_path / "m.csv").write_text("id,parity,number\n" + "\n".join([*lines, "zz,odd,1"]) + "\n")
    manifest = build_index(tmp_path / "s", metadata=tmp_path / "m.csv")
    assert manifest.metadata is not None
    assert (manifest.metadata.matched, manifest.metadata.unmatched) == (15, 1)
    query = vectors_of(1, seed=9)[0]
    order = ranked(vectors, query, ids)
    with Index.open(tmp_path / "s") as index:

        def expect(wanted: list[str], **options: Any) -> None:
            assert found(index, query, 20, **options) == [id_ for id_ in order if id_ in wanted]

        expect(ids[1:15:2], filter="parity = 'odd'")
        expect(ids[0:15:2], text="eVEN")
        expect(["p1.jpg", *ids[10:20]], text="p1")
        expect(ids[11:15:2], text="p1", filter="parity = 'odd' and width > 601")
        expect(ids[15:], filter="number is null")
        expect([], filter="width > 10000")
        (hits,) = index.search(query, 20)
        by_id = {hit.id: hit.metadata for hit in hits}
        assert by_id["p3.jpg"] == {"parity": "odd", "number": 3}
        assert by_id["p17.jpg"] == {"parity": None, "number": None}
        with pytest.raises(
            MisuseError, match="no column 'colour'; wanted one of id, width, height, parity, number"
        ):
            index.search(query, filter="colour = 'red'")


def test_metadata_without_a_matching_id_is_refused(tmp_path: Path) -> None:
    store_of(tmp_path / "s", vectors_of(3))
    (tmp_path / "m.csv").write_text("id,x\nphotos/p0.jpg,1\n")
    with pytest.raises(MisuseError, match=r"'photos/p0\.jpg', wanted for example 'p0\.jpg'"):
        build_index(tmp_path / "s", metadata=tmp_path / "m.csv")
    assert not list(tmp_path.glob("*.index"))


@pytest.mark.parametrize(
    ("vectors", "k", "words"),
    [
        (vectors_of(1), 0, "-k is 0; wanted at least 1"),
        (vectors_of(1, dim=D + 1), 1, r"vectors are \[1, 13\]; wanted \[Q, 12\]"),
        (np.zeros(D, np.float32), 1, "vector 0 is zero or not finite"),
        (np.full(D, np.nan, np.float32), 1, "vector 0 is zero or not finite"),
    ],
)
def test_invalid_queries_are_refused(tmp_path: Path, vectors: Any, k: int, words: str) -> None:
    store_of(tmp_path / "s", vectors_of(2))
    build_index(tmp_path / "s")
    with Index.open(tmp_path / "s") as index, pytest.raises(MisuseError, match=words):
        index.search(vectors, k)
    with pytest.raises(MisuseError, match="closed"):
        index.search(vectors_of(1))


def test_lancedb_opens_the_table(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    vectors = vectors_of(9)
    ids = store_of(tmp_path / "s", vectors)
    build_index(tmp_path / "s")
    table = lancedb.connect(tmp_path / "s.index").open_table("images")
    rows = table.search(vectors[4], vector_column_name="vector").distance_type("cosine").limit(3).to_list()
    assert [row["id"] for row in rows] == ranked(vectors, vectors[4], ids)[:3]


# ---- stale, damaged, existing -----------------------------------------------------------------


def test_an_existing_index_is_kept_without_overwrite(tmp_path: Path) -> None:
    store_of(tmp_path / "s", vectors_of(3))
    build_index(tmp_path / "s")
    with pytest.raises(OutputExistsError, match="pass --overwrite"):
        build_index(tmp_path / "s")
    build_index(tmp_path / "s", overwrite=True)
    (tmp_path / "s.index" / "mine.txt").write_text("x")
    with pytest.raises(OutputExistsError, match="is not a dinodeploy index"):
        build_index(tmp_path / "s", overwrite=True)


def test_a_store_that_has_changed_is_refused(tmp_path: Path) -> None:
    store_of(tmp_path / "s", vectors_of(3))
    build_index(tmp_path / "s")
    store_of(tmp_path / "s", vectors_of(3, seed=1), overwrite=True)
    with pytest.raises(
        TamperedError, match=r"has changed since it was indexed.*dinodeploy index .*--overwrite"
    ):
        Index.open(tmp_path / "s")
    build_index(tmp_path / "s", overwrite=True)
    Index.open(tmp_path / "s").close()


def test_another_stores_index_is_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        store_of(tmp_path / f"s{seed}", vectors_of(3, seed=seed))
        build_index(tmp_path / f"s{seed}")
    shutil.rmtree(tmp_path / "s1.index")
    (tmp_path / "s0.index").rename(tmp_path / "s1.index")
    with pytest.raises(TamperedError, match="has changed since"):
        Index.open(tmp_path / "s1")
    with pytest.raises(BundleError, match=r"has no index .* make one: dinodeploy index"):
        Index.open(tmp_path / "s0")


@pytest.mark.parametrize("exact_below", [10**6, 100])
def test_what_another_program_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact_below: int
) -> None:
    """Lance's own updates, deletions, appends and indices; the hint of the newest version put back or not."""
    import lance

    monkeypatch.setattr(approximates, "PARTITION", 50)
    store_of(tmp_path / "s", vectors_of(300))
    build_index(tmp_path / "s", exact_below=exact_below)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "s.index", whole)
    table = tmp_path / "s.index" / "images.lance"

    def forge(found: Any) -> None:
        found.update({"id": "'forged.jpg'"}, where="id = 'p3.jpg'")

    changes: list[Any] = [
        forge,
        lambda found: found.delete("width < 650"),
        lambda found: lance.write_dataset(found.to_table(), str(table), mode="append"),
        lambda found: lance.write_dataset(found.to_table(limit=9), str(table), mode="overwrite"),
        lambda found: found.create_scalar_index("id", "BTREE"),
        lambda found: found.add_columns({"more": "width + 1"}),
    ]
    for change in changes:
        for restored in (False, True):
            shutil.rmtree(tmp_path / "s.index")
            shutil.copytree(whole, tmp_path / "s.index")
            change(lance.dataset(str(table)))
            if restored:
                for path in whole.rglob("*hint*"):
                    shutil.copy2(path, tmp_path / "s.index" / path.relative_to(whole))
            with pytest.raises(BundleError, match=r"index again: dinodeploy index .*--overwrite"):
                Index.open(tmp_path / "s")


@pytest.mark.parametrize(
    "name", ["x", "images.lance/data/x.lance", "images.lance/_versions/9.manifest", "more/x"]
)
def test_a_file_that_is_not_listed_is_refused(tmp_path: Path, name: str) -> None:
    store_of(tmp_path / "s", vectors_of(3))
    build_index(tmp_path / "s")
    path = tmp_path / "s.index" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(TamperedError, match=r"is not listed in index\.json: another program has written"):
        Index.open(tmp_path / "s")
    path.rename(path.with_name("Thumbs.db"))  # a file manager looked into the folder
    Index.open(tmp_path / "s").close()


def test_a_link_in_an_index_is_refused(tmp_path: Path) -> None:
    store_of(tmp_path / "s", vectors_of(3))
    build_index(tmp_path / "s")
    (path,) = (tmp_path / "s.index" / "images.lance" / "data").iterdir()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TamperedError, match="is a link or a device"):
        Index.open(tmp_path / "s")


def test_the_listed_version_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if every file were accepted: Lance alone would open the newest version."""
    import lance

    store_of(tmp_path / "s", vectors_of(5))
    manifest = build_index(tmp_path / "s")
    assert manifest.table_version == 1
    lance.dataset(str(tmp_path / "s.index" / "images.lance")).update({"id": "'forged.jpg'"})
    monkeypatch.setattr("dinodeploy.search.index.read_index_manifest", lambda *_, **__: manifest)
    with Index.open(tmp_path / "s") as index:
        assert index.ids() == [f"p{number}.jpg" for number in range(5)]


@pytest.mark.parametrize("kept", [False, True], ids=["new time", "time put back"])
def test_large_files_are_hashed_when_their_time_changed_or_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr("dinodeploy.search.index_manifest.HASHED_BYTES", 0)
    store_of(tmp_path / "s", vectors_of(4000, dim=80), shard_size=5000)
    build_index(tmp_path / "s")
    (path,) = (tmp_path / "s.index" / "images.lance" / "data").iterdir()
    content, before = path.read_bytes(), path.stat()
    assert len(content) > 1 << 20, "a smaller file is always hashed"
    path.write_bytes(content[:500_000] + bytes([content[500_000] ^ 1]) + content[500_001:])
    if kept:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        Index.open(tmp_path / "s").close()  # what docs/search.md says of indexes above 1 GiB
    for verify in (True,) if kept else (False, True):
        with pytest.raises(TamperedError, match="is not the file that was written"):
            Index.open(tmp_path / "s", verify=verify)


def test_an_index_of_before_opens(tmp_path: Path) -> None:
    """Version 1 of index.json: no table version, no times of change."""
    store_of(tmp_path / "s", vectors_of(5))
    build_index(tmp_path / "s")
    path = tmp_path / "s.index" / "index.json"
    document = json.loads(path.read_text())
    document["version"] = 1
    del document["table_version"]
    for facts in document["files"].values():
        del facts["modified"]
    path.write_text(json.dumps(document))
    with Index.open(tmp_path / "s") as index:
        assert len(index.ids()) == 5


@pytest.mark.parametrize("harm", ["cut off", "emptied", "removed", "a bit turned"])
def test_a_damaged_index_is_refused(tmp_path: Path, harm: str) -> None:
    store_of(tmp_path / "s", vectors_of(50))
    build_index(tmp_path / "s")
    files = [path for path in sorted((tmp_path / "s.index").rglob("*")) if path.is_file()]
    assert len(files) >= 4
    for path in files:
        whole = path.read_bytes()
        if harm == "removed":
            path.unlink()
        else:
            broken = {"cut off": whole[:-7], "emptied": b""}.get(harm) or bytes([whole[0] ^ 1]) + whole[1:]
            path.write_bytes(b"" if harm == "emptied" else broken)
        with pytest.raises(BundleError) as caught:
            Index.open(tmp_path / "s")
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    Index.open(tmp_path / "s").close()


def test_a_damaged_table_too_large_for_hashing_is_one_error_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinodeploy.search.index_manifest.HASHED_BYTES", 0)
    store_of(tmp_path / "s", vectors_of(50))
    build_index(tmp_path / "s")
    for pattern in ("_versions/*.manifest", "data/*.lance"):
        (path,) = (tmp_path / "s.index" / "images.lance").glob(pattern)
        whole = path.read_bytes()
        path.write_bytes(bytes(len(whole)))

        def search() -> None:
            with Index.open(tmp_path / "s") as index:
                index.search(vectors_of(1))

        with pytest.raises(BundleError) as caught:
            search()
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)


def test_a_damaged_store_leaves_no_index(tmp_path: Path) -> None:
    store_of(tmp_path / "s", vectors_of(20))
    path = tmp_path / "s" / "img_emb" / "img_emb_00001.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(TamperedError, match=r"img_emb_00001\.npy"):
        build_index(tmp_path / "s")
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_without_lance_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_of(tmp_path / "s", vectors_of(2))
    build_index(tmp_path / "s")
    monkeypatch.setattr("dinodeploy.search.table.importlib.util.find_spec", lambda name: None)
    for refused in (Index.open, build_index):
        with pytest.raises(UnavailableError, match=r"pip install 'dinodeploy\[search\]'"):
            refused(tmp_path / "s")


# ---- approximate search ------------------------------------------------------------------------


def test_approximate_search_reaches_its_recall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(3000, 32, clusters=60)
    monkeypatch.setattr(approximates, "PARTITION", 100)
    ids = store_of(tmp_path / "s", vectors, shard_size=1000)
    how = build_index(tmp_path / "s", exact_below=1000).approximate
    assert how is not None
    assert (how.partitions, how.sub_vectors) == (30, 4)
    assert how.nprobes < 30
    assert how.recall >= approximates.TARGET
    with Index.open(tmp_path / "s") as index:
        queries = clustered(20, 32, clusters=60, seed=0)
        truth = [ranked(vectors, query, ids)[:10] for query in queries]
        shared = [set(found(index, q)) & set(t) for q, t in zip(queries, truth, strict=True)]
        assert sum(map(len, shared)) / 200 >= 0.9
        assert [found(index, q, exact=True) for q in queries] == truth
        assert len(found(index, queries[0], 2500)) == 2500, "more than the probed partitions may hold"
        little = [id_ for id_ in ranked(vectors, queries[0], ids) if int(id_[1:-4]) < 12]
        assert found(index, queries[0], filter="width < 612") == little[:10], (
            "few remaining rows are searched exactly"
        )


@pytest.mark.slow
def test_ivf_pq_with_more_than_100000_rows(tmp_path: Path) -> None:
    vectors = clustered(110_000, 64, clusters=1500)
    ids = store_of(tmp_path / "s", vectors, shard_size=20_000, format="npz")
    how = build_index(tmp_path / "s").approximate
    assert how is not None
    assert how.recall >= approximates.TARGET
    assert how.nprobes < how.partitions, "else the search is not approximate"
    rows = np.arange(0, 110_000, 2200)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = np.argsort(-(unit[rows] @ unit.T), axis=1)[:, :10]
    with Index.open(tmp_path / "s") as index:
        shared = [
            len(set(found(index, vectors[row])) & {ids[n] for n in near})
            for row, near in zip(rows, nearest, strict=True)
        ]
    assert sum(shared) / (10 * len(rows)) >= 0.93


# ---- never mixed ---------------------------------------------------------------------------------


def test_an_index_that_names_another_engine_than_its_store_is_refused(tmp_path: Path) -> None:
    store_of(tmp_path / "s", vectors_of(5))
    build_index(tmp_path / "s")
    path = tmp_path / "s.index" / "index.json"
    document = json.loads(path.read_text())
    for fingerprint in ({"model": "y"}, {}, {"model": "x", "more": 1}):
        path.write_text(json.dumps(document | {"fingerprint": fingerprint}))
        with pytest.raises(TamperedError, match="names another engine than"):
            Index.open(tmp_path / "s")


def test_a_fact_that_only_one_fingerprint_has_is_a_difference() -> None:
    assert differences({"model": "x"}, {"model": "x"}) == ""
    assert differences({"model": "x"}, {"model": "x", "recipe": "fp16"}) == "recipe: None, now fp16"
    assert differences({"model": "x", "jpeg": None}, {"model": "x"}) == "jpeg: None, now None"
