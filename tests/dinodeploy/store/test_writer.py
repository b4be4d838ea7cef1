"""Stores of every format: written whole or not at all, read back exactly, refused when tampered with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.errors import BundleError, MisuseError, OutputExistsError, TamperedError, UnavailableError
from dinodeploy.store import formats
from dinodeploy.store.formats import FORMATS
from dinodeploy.store.manifest import read_manifest
from dinodeploy.store.reader import load_embeddings, open_embeddings
from dinodeploy.store.shard import ShardRows
from dinodeploy.store.writer import Store
from tests.support.stores import make_plan, write_store

pytest.importorskip("pyarrow")

Rows = dict[str, np.ndarray[Any, Any]]
LISTINGS = [f"listing/listing_0000{n}.safetensors" for n in range(3)]
EVERY_FORMAT = pytest.mark.parametrize("format", FORMATS)
IDS = ["a/1.jpg", 'quote " and é.jpg', "line\nbreak.jpg", "d.jpg", "e.jpg"]
SQUARE = [(4, 4)] * 5
MIXED = [(4, 4), (4, 4), (2, 3), (4, 4), (5, 1)]  # a uniform shard, a ragged one, a last one of one row


def rows_of(grids: list[tuple[int, int]]) -> list[Rows]:
    rng = np.random.default_rng(0)
    shapes = [{"cls": (8,), "storage": (4, 8), "patch": (h, w, 8)} for h, w in grids]
    return [{k: rng.standard_normal(v).astype(np.float32) for k, v in shape.items()} for shape in shapes]


def write(out: Path, format: str, rows: list[Rows], **options: Any) -> None:
    options = {"outputs": ["cls", "storage", "patch"], "format": format} | options
    sizes = [(640 + index, 427) for index in range(len(rows))]
    write_store(out, IDS[: len(rows)], rows, sizes=sizes, **options)


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@EVERY_FORMAT
@pytest.mark.parametrize("output", ["cls", "storage", "patch"])
def test_rows_come_back_exactly_and_in_order(tmp_path: Path, format: str, output: str) -> None:
    rows = rows_of(SQUARE)
    write(tmp_path / "out", format, rows)
    ids, array = load_embeddings(tmp_path / "out", output)
    assert ids == IDS
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.stack([row[output] for row in rows]))


@EVERY_FORMAT
def test_grids_that_differ_come_back_as_a_list(tmp_path: Path, format: str) -> None:
    rows = rows_of(MIXED)
    write(tmp_path / "out", format, rows)
    ids, maps = load_embeddings(tmp_path / "out", "patch")
    assert ids == IDS
    assert isinstance(maps, list)
    assert len(maps) == len(rows)
    for got, row in zip(maps, rows, strict=True):
        np.testing.assert_array_equal(got, row["patch"], strict=True)
    assert read_manifest(tmp_path / "out").outputs["patch"].shape == [None, None, 8]
    np.testing.assert_array_equal(
        load_embeddings(tmp_path / "out")[1], np.stack([row["cls"] for row in rows])
    )


@EVERY_FORMAT
def test_two_runs_give_the_same_bytes(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", format, rows_of(MIXED))
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    write(tmp_path / "b", format, rows_of(MIXED))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_manifest_says_what_is_there(tmp_path: Path) -> None:
    rows: list[Any] = [*rows_of(SQUARE)[:3], "not an image"]
    ids = [*IDS[:3], "bad\n.jpg"]
    write_store(tmp_path / "out", ids, rows, fingerprint={"model": "x", "size": [256, 384]})
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.version, manifest.format, manifest.count, manifest.quarantined) == (3, "npy", 3, 1)
    assert [shard.rows for shard in manifest.shards] == [2, 1]
    assert manifest.outputs["cls"].shape == [8]
    assert manifest.fingerprint == {"model": "x", "size": [256, 384]}
    assert manifest.plan is not None
    assert (manifest.plan.pictures, manifest.plan.shard_size) == (4, 2)
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line) == {"id": "bad\n.jpg", "reason": "not an image"}


def test_npy_is_laid_out_like_clip_retrieval(tmp_path: Path) -> None:
    import pyarrow.parquet

    write(tmp_path / "out", "npy", rows_of(MIXED))
    shards = [f"{index:05d}" for index in range(3)]
    wanted = [f"{kind}_emb/{kind}_emb_{n}.npy" for kind in ("img", "storage", "patch") for n in shards]
    wanted += [f"metadata/metadata_{n}.{suffix}" for suffix in ("jsonl", "parquet") for n in shards]
    assert sorted(tree(tmp_path / "out")) == sorted(
        [*wanted, *LISTINGS, "patch_grid/patch_grid_00001.npy", "embeddings.json"]
    )
    assert np.load(tmp_path / "out/img_emb/img_emb_00001.npy").shape == (2, 8)
    metadata = pyarrow.parquet.read_table(tmp_path / "out/metadata/metadata_00000.parquet")
    assert metadata.to_pydict() == {"image_path": IDS[:2], "width": [640, 641], "height": [427, 427]}


def test_npy_needs_no_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_pyarrow(monkeypatch)
    write(tmp_path / "out", "npy", rows_of(SQUARE))
    assert not list(tmp_path.rglob("*.parquet"))
    assert load_embeddings(tmp_path / "out")[0] == IDS


def test_parquet_without_pyarrow_says_so_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_pyarrow(monkeypatch)
    with pytest.raises(UnavailableError, match=r"pip install 'dinodeploy\[parquet\]'"):
        Store(tmp_path / "out", make_plan(IDS, format="parquet"))
    assert not list(tmp_path.iterdir())


def hide_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = formats.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "pyarrow" else find_spec(name)
    )
    for name in list(sys.modules):
        if name.partition(".")[0] == "pyarrow":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)


def test_parquet_columns_suit_a_data_frame(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    rows = rows_of(SQUARE)
    write(tmp_path / "out", "parquet", rows)
    table = pyarrow.parquet.read_table(tmp_path / "out/shard_00000.parquet")
    assert table.column_names == ["id", "width", "height", "cls", "storage", "patch"]
    assert table.schema.field("cls").type == pa.list_(pa.float32(), 8)
    assert table.schema.field("patch").metadata == {b"shape": b"[4, 4, 8]"}
    assert table["patch"][1].as_py() == rows[1]["patch"].reshape(-1).tolist()


def test_other_libraries_read_npz_and_safetensors(tmp_path: Path) -> None:
    import safetensors.numpy

    rows = rows_of(SQUARE)
    write(tmp_path / "z", "npz", rows)
    with np.load(tmp_path / "z/shard_00002.npz", allow_pickle=False) as archive:
        assert archive["ids"].tolist() == IDS[4:]
        assert archive["size"].tolist() == [[644, 427]]
        np.testing.assert_array_equal(archive["patch"][0], rows[4]["patch"])
    write(tmp_path / "s", "safetensors", rows)
    tensors = safetensors.numpy.load_file(tmp_path / "s/shard_00002.safetensors")
    np.testing.assert_array_equal(tensors["patch"][0], rows[4]["patch"])


@EVERY_FORMAT
def test_name_that_is_not_unicode_survives(tmp_path: Path, format: str) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")  # as Python reads such a file name
    write_store(tmp_path / "o", [name], rows_of(SQUARE)[:1], format=format)
    assert load_embeddings(tmp_path / "o")[0] == [
        r"caf\udce9.jpg" if format in ("parquet", "lance") else name
    ]


@EVERY_FORMAT
def test_store_without_rows(tmp_path: Path, format: str) -> None:
    write(tmp_path / "out", format, [])
    ids, array = load_embeddings(tmp_path / "out")
    assert ids == []
    assert isinstance(array, np.ndarray)
    assert (array.shape, array.dtype) == ((0, 0), np.float32)


def test_rows_are_copied_when_they_are_added(tmp_path: Path) -> None:
    buffer = np.zeros(8, np.float32)
    rows = ShardRows(["cls"])
    for index in range(3):
        buffer[:] = index
        rows.add(index, IDS[index], {"cls": buffer}, (1, 1))
    assert rows.column("cls").values[:, 0].tolist() == [0, 1, 2]


def test_rows_keep_the_order_of_the_listing() -> None:
    """Buckets finish in any order."""
    rows = ShardRows(["cls"])
    for position in (7, 5, 6):
        rows.add(position, f"{position}.jpg", {"cls": np.full(2, position, np.float32)}, (position, 1))
    rows.quarantine(9, "9.jpg", "no")
    rows.quarantine(8, "8.jpg", "no")
    assert rows.ids == ["5.jpg", "6.jpg", "7.jpg"]
    assert rows.sizes == [(5, 1), (6, 1), (7, 1)]
    assert rows.column("cls").values[:, 0].tolist() == [5, 6, 7]
    assert [entry.id for entry in rows.quarantined] == ["8.jpg", "9.jpg"]


def test_a_row_that_is_not_finite_is_not_taken() -> None:
    rows = ShardRows(["cls"])
    bad = np.array([1, np.inf], np.float32)
    assert (
        rows.add(0, "a.jpg", {"cls": bad}, (1, 1)) == "the engine's output 'cls' is not finite for this image"
    )
    assert rows.ids == []


@EVERY_FORMAT
def test_a_shard_without_rows_has_no_file(tmp_path: Path, format: str) -> None:
    """All of its images were bad; those around it keep their places."""
    rows: list[Any] = rows_of(SQUARE)
    rows[2] = rows[3] = "bad"
    write(tmp_path / "out", format, rows)
    ids, vectors = load_embeddings(tmp_path / "out")
    assert ids == [IDS[0], IDS[1], IDS[4]]
    np.testing.assert_array_equal(vectors[2], rows[4]["cls"])
    assert list(read_manifest(tmp_path / "out").shards[1].files) == [LISTINGS[1]]


@EVERY_FORMAT
def test_rows_that_do_not_fit_stop_the_run(tmp_path: Path, format: str) -> None:
    broken = rows_of(SQUARE)
    broken[1]["cls"] = broken[1]["cls"][:4]
    with pytest.raises(MisuseError, match=r"output 'cls' of 'quote .*': got shape \[4\], wanted \[8\]"):
        write(tmp_path / "out", format, broken)
    assert not list(tmp_path.iterdir()), "nothing was committed, so nothing is there"
    broken[1]["cls"] = np.zeros(8, np.float64)
    with pytest.raises(MisuseError, match="got float64, wanted float32"):
        write(tmp_path / "out", format, broken)


def test_shards_that_do_not_fit_together_stop_the_run(tmp_path: Path) -> None:
    broken = rows_of(SQUARE)
    broken[4]["cls"] = broken[4]["cls"][:4]
    with pytest.raises(MisuseError, match=r"output 'cls' of 'shard 2': got shape \[4\], wanted \[8\]"):
        write(tmp_path / "out", "npy", broken)


def test_only_an_older_store_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(out, "npy", rows_of(SQUARE))  # an empty directory is as good as none
    with pytest.raises(OutputExistsError, match=r"holds other embeddings \(format: npy, now npz\); pass"):
        write(out, "npz", rows_of(SQUARE))
    write(out, "npz", rows_of(SQUARE), overwrite=True)
    assert sorted(tree(out)) == ["embeddings.json", *LISTINGS, *(f"shard_0000{n}.npz" for n in range(3))]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_users_files_are_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.jpg").touch()
    with pytest.raises(OutputExistsError, match="is not an embedding directory, so it is not deleted"):
        write(folder, "npy", [], overwrite=True)
    write(tmp_path / "out", "npy", rows_of(SQUARE))
    (tmp_path / "out" / "img_emb" / "holiday.jpg").touch()
    with pytest.raises(OutputExistsError, match=r"also holds 'img_emb/holiday\.jpg', so it is not deleted"):
        write(tmp_path / "out", "npy", [], overwrite=True)
    with pytest.raises(OutputExistsError, match="is a file"):
        write(folder / "holiday.jpg", "npy", [], overwrite=True)
    with pytest.raises(MisuseError, match="cannot be made"):
        write(folder / "holiday.jpg" / "out", "npy", [])
    assert (folder / "holiday.jpg").is_file()


def test_a_directory_that_appeared_meanwhile_is_not_touched(tmp_path: Path) -> None:
    store = Store(tmp_path / "out", make_plan(IDS))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other").touch()
    with pytest.raises(OutputExistsError):
        store.__enter__()
    assert "out/other" in tree(tmp_path)


def test_link_to_a_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    write(tmp_path / "out", "npy", rows_of(SQUARE))
    assert (tmp_path / "out").is_symlink()
    assert load_embeddings(tmp_path / "disk")[0] == IDS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "csv"}, "format 'csv' is unknown; use one of npy, parquet, lance, npz, safetensors"),
        ({"outputs": []}, "outputs: got none, wanted at least one"),
        ({"outputs": ["cls", "cls"]}, "outputs: got cls, cls, wanted at least one, each once"),
        ({"outputs": ["ids"]}, "output 'ids' cannot name a column"),
        ({"outputs": ["patch_grid"]}, "output 'patch_grid' cannot name a column"),
        ({"outputs": ["cls_scale"]}, "output 'cls_scale' cannot name a column"),
        ({"outputs": ["../x"]}, "output '../x' cannot name a column"),
        ({"shard_size": 0}, "shard size: got 0, wanted at least 1"),
        ({"batch": 0}, "batch size: got 0, wanted at least 1"),
    ],
)
def test_senseless_arguments_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError) as caught:
        Store(tmp_path / "out", make_plan(IDS, **options))
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


@EVERY_FORMAT
def test_every_file_that_is_read_is_held_against_its_hash(tmp_path: Path, format: str) -> None:
    write(tmp_path / "out", format, rows_of(MIXED))
    manifest = read_manifest(tmp_path / "out")
    reader = formats.open_format(format)
    for index, shard in enumerate(manifest.shards):
        for name in set(reader.files(index, "patch")) & set(shard.files):
            path = tmp_path / "out" / name
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(TamperedError, match="is not the file that was written"):
                load_embeddings(tmp_path / "out", "patch")
            path.unlink()
            with pytest.raises(BundleError, match="is missing"):
                load_embeddings(tmp_path / "out", "patch")
            path.write_bytes(content)
    assert load_embeddings(tmp_path / "out", "patch")[0] == IDS


def test_grid_slipped_in_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "out", "npy", rows_of(SQUARE))
    (tmp_path / "out/patch_grid").mkdir()
    np.save(tmp_path / "out/patch_grid/patch_grid_00000.npy", np.ones((2, 2), np.int32))
    with pytest.raises(TamperedError, match=r"is not in embeddings\.json"):
        load_embeddings(tmp_path / "out", "patch")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(version=4), "got version 4, wanted 3"),
        (lambda m: m.update(count=6), "got 5 rows in the shards, wanted 6"),
        (lambda m: m["shards"][0].update(number=1), "got a number twice or out of range"),
        (lambda m: m["shards"][0].update(number=-1), "got a number twice or out of range"),
        (lambda m: m["shards"][0].update(rows=4), "got more rows than images"),
        (
            lambda m: m["shards"][0].update(rows=3, images=3),
            "shard 0, output 'cls': got 2 ids and 2 rows, wanted 3",
        ),
        (lambda m: m["outputs"]["cls"].update(shape=[9]), r"got rows of float32 \[8\], wanted float32 \[9\]"),
        (lambda m: m["outputs"]["cls"].update(dtype="int4"), "field 'outputs.cls.dtype': got 'int4'"),
        (
            lambda m: m["outputs"]["cls"].update(dtype="float16"),
            r"rows of float32 \[8\], wanted float16",
        ),
        (lambda m: m.update(surprise=1), "field 'surprise': unknown"),
    ],
)
def test_edited_manifest_is_refused(tmp_path: Path, edit: Callable[[Any], None], message: str) -> None:
    write(tmp_path / "out", "npz", rows_of(SQUARE))
    path = tmp_path / "out" / "embeddings.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        load_embeddings(tmp_path / "out")


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BundleError, match=r"holds no embeddings\.json"):
            load_embeddings(path)
    write(tmp_path / "out", "npy", rows_of(SQUARE), outputs=["cls"])
    with pytest.raises(
        BundleError, match="has no output 'patch', only cls; embed again with --outputs patch"
    ):
        load_embeddings(tmp_path / "out", "patch")


@EVERY_FORMAT
def test_sizes_lie_beside_their_rows(tmp_path: Path, format: str) -> None:
    write(tmp_path / "out", format, rows_of(MIXED))
    shards = list(open_embeddings(tmp_path / "out").sized_shards())
    assert [id_ for ids, _, _ in shards for id_ in ids] == IDS
    sizes = np.concatenate([sizes for _, _, sizes in shards])
    assert sizes.dtype == np.int32
    assert sizes.tolist() == [[640 + index, 427] for index in range(5)]


def test_sizes_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", "npz", rows_of(SQUARE))
    for wrong in (np.zeros((1, 2), np.int32), np.zeros((2, 2), np.float32)):
        monkeypatch.setattr("dinodeploy.store.formats.tensors.Npz.sizes", lambda *_, wrong=wrong: wrong)
        with pytest.raises(BundleError, match="wanted int32 \\[2, 2\\]"):
            list(open_embeddings(tmp_path / "out").sized_shards())


PREPARED = """
import sys
from pathlib import Path
import numpy as np
from dinodeploy.store.formats import Column, Shard, open_format
root, name = Path(sys.argv[1]), sys.argv[2]
writer = open_format(name)
writer.prepare()
before = set(sys.modules)
shard = Shard(["a", "b"], np.ones((2, 2), np.int32), {"cls": Column(np.ones((2, 8), np.float32))})
writer.write(root, 0, shard)
print(*sorted({module.partition(".")[0] for module in set(sys.modules) - before} - {"dinodeploy"}))
"""


@EVERY_FORMAT
def test_a_prepared_format_imports_no_other_library(tmp_path: Path, format: str) -> None:
    """Each of them would be waited for between the last row and the file."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARED, str(tmp_path), format], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= sys.stdlib_module_names
    assert any(tmp_path.rglob("*_0*"))
