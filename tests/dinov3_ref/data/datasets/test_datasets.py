"""The four datasets over the same photographs, and the strings that name them."""

from __future__ import annotations

import pickle
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinov3_ref.data.datasets import (
    EncodedImages,
    ImageFolder,
    ImageList,
    ImageTable,
    TarShards,
    make_dataset,
)
from dinov3_ref.data.datasets.packed_text import PackedText
from dinov3_ref.errors import BrokenImage, DataError
from tests.support.image_files import NAMES, encoded, write_folder, write_tar

CLASSES = {"astronaut": "animate", "chelsea": "animate"}


def write_list(root: Path, separator: str = "\t") -> Path:
    write_folder(root / "photos")
    lines = []
    for path in sorted((root / "photos").rglob("*.jpg")):
        label = CLASSES.get(path.stem, "still")
        lines.append(f"{path.relative_to(root)}{separator}{label}\n" if separator else f"{path}\n")
    (root / "list.tsv").write_text("".join(lines))
    return root / "list.tsv"


def write_shards(root: Path) -> str:
    for shard, names in enumerate((NAMES[:4], NAMES[4:])):
        members = {}
        for name in names:
            members[f"a/{name}.v1.jpg"] = encoded(name)
            members[f"a/{name}.cls"] = CLASSES.get(name, "still").encode()
        write_tar(root / f"train-{shard:03d}.tar", members | {"notes.json": b"{}"})
    return f"{root}/train-{{000..001}}.tar"


def table_of(names: tuple[str, ...]) -> pa.Table:
    images = [{"bytes": encoded(name), "path": f"{name}.jpg"} for name in names]
    return pa.table({"image": images, "label": [CLASSES.get(name, "still") for name in names]})


def write_parquet(root: Path) -> str:
    for part, names in enumerate((NAMES[:4], NAMES[4:])):
        pq.write_table(table_of(names), root / f"part-{part}.parquet", row_group_size=3)
    return f"{root}/part-*.parquet"


def write_arrow(root: Path) -> str:
    """As Hugging Face's `datasets` writes it: a stream."""
    table = table_of(NAMES)
    with pa.OSFile(str(root / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return f"{root}/data.arrow"


WRITERS: dict[str, Any] = {
    "folder": lambda root: str(write_folder(root)),
    "list": lambda root: str(write_list(root)),
    "tar": write_shards,
    "parquet": write_parquet,
    "arrow": write_arrow,
}


@pytest.fixture(params=WRITERS)
def text(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # of Parquet's cache
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


def test_each_travels_to_a_spawned_worker(text: str) -> None:
    dataset = make_dataset(text, labelled=True)
    dataset[0]
    data = pickle.dumps(dataset)
    assert len(data) < 20_000  # paths and places, not pictures: those are 6 x 5 kB at least
    twin = pickle.loads(data)
    assert twin.read(3) == dataset.read(3)


# ---- folders and lists --------------------------------------------------------------------------


def test_folders_are_sorted_and_leave_out_what_is_hidden_or_no_picture(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/10.png", "a.jpg", ".hidden/x.jpg", "b/.x.jpg", "b/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded("coffee"))
    dataset = ImageFolder(tmp_path)
    assert [dataset.paths[index] for index in range(len(dataset))] == ["a.jpg", "b/10.png", "b/2.JPG"]
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert len(ImageFolder(tmp_path)) == 3
    with pytest.raises(DataError, match="lies outside any class"):
        ImageFolder(tmp_path, labelled=True)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)

    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match=f"'{tmp_path}' cannot be listed: Permission denied"):
        ImageFolder(tmp_path)


def test_a_split_is_a_folder_inside(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", NAMES[:3])
    assert len(ImageFolder(tmp_path, split="train")) == 3
    assert len(make_dataset(f"ImageFolder:root={tmp_path}:split=train")) == 3


def test_class_names_that_are_numbers_sort_as_numbers(tmp_path: Path) -> None:
    lines = [f"x.jpg\t{label}\n" for label in (10, 9, 2, 9)]
    (tmp_path / "list.txt").write_text("".join(lines))
    dataset = ImageList(tmp_path / "list.txt", labelled=True)
    assert dataset.class_names == ("2", "9", "10")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 1, 0, 1]


def test_a_list_without_labels_serves_where_none_are_wanted(tmp_path: Path) -> None:
    path = write_list(tmp_path, separator="")
    assert len(ImageList(path)) == 6
    with pytest.raises(DataError, match=r"no label; wanted path<TAB>label on every line"):
        ImageList(path, labelled=True)


def test_a_picture_that_is_gone_is_broken(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("gone.jpg\n")
    with pytest.raises(BrokenImage, match=r"gone\.jpg' cannot be read: No such file"):
        ImageList(tmp_path / "list.txt")[0]


# ---- shards and tables --------------------------------------------------------------------------


def test_shards_with_numeric_labels_and_without(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.jpg": encoded("coffee"), "1.cls": b"12\n", "2.jpg": encoded("china")})
    assert len(TarShards(tmp_path / "a.tar")) == 2
    assert TarShards(tmp_path / "a.tar").name(1) == f"{tmp_path}/a.tar/2.jpg"
    with pytest.raises(DataError, match=r"'2\.jpg' has no label"):
        TarShards(tmp_path / "a.tar", labelled=True)


def test_compressed_and_cut_shards_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz"):
        pass
    with pytest.raises(DataError, match="shards have to be whole and uncompressed"):
        TarShards(tmp_path / "x.tar")
    path = write_tar(tmp_path / "cut.tar", {"1.jpg": encoded("coffee"), "2.jpg": encoded("china")})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="shards have to be whole and uncompressed"):
        TarShards(path)


def test_parquet_is_turned_into_arrow_once(tmp_path: Path) -> None:
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


def test_columns_that_are_not_there_or_empty(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"picture": [encoded("china"), None], "label": [1, None]}), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match="columns picture, label; none is image or"):
        ImageTable(tmp_path / "a.parquet", cache=tmp_path)
    dataset = ImageTable(tmp_path / "a.parquet", image="picture", cache=tmp_path)
    assert dataset[0][0].size == (120, 90)
    with pytest.raises(BrokenImage, match="row 1' cannot be read: column 'picture' holds no bytes"):
        dataset[1]
    with pytest.raises(DataError, match="rows without 'label'"):
        ImageTable(tmp_path / "a.parquet", image="picture", labelled=True, cache=tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be turned into"):
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


# ---- names --------------------------------------------------------------------------------------


def test_the_official_form_takes_colons_and_equals_in_a_path(tmp_path: Path) -> None:
    root = tmp_path / "a:b=c"
    write_folder(root / "val")
    assert len(make_dataset(f"ImageFolder:root={root}:split=val")) == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere", "'nowhere' is no dataset; wanted a folder, a file ending in"),
        ("ImageNet:split=TRAIN", "is no dataset"),
        ("ImageFolder:split=train", "wanted root"),
        ("ImageFolder:root=nowhere", "'nowhere' is not a folder"),
        ("nowhere.tar", "'nowhere.tar' is not a file"),
        ("nowhere-*.parquet", "is not a file and matches none"),
        ("nowhere.txt", "'nowhere.txt' cannot be read: No such file"),
    ],
)
def test_words_that_mean_no_dataset(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        make_dataset(text)
    assert "\n" not in str(caught.value)


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
        with pytest.raises(DataError, match="no picture in"):
            build()


def test_packed_text_is_a_list_of_strings() -> None:
    texts = ["", "a.jpg", "größe/ü.png", "\udcff.jpg"]
    packed = PackedText(texts)
    assert [packed[index] for index in range(len(packed))] == texts
    assert isinstance(packed.bytes, np.ndarray)
    for index in (-1, 4):
        with pytest.raises(IndexError):
            packed[index]


def test_all_are_one_kind() -> None:
    assert all(issubclass(kind, EncodedImages) for kind in (ImageFolder, ImageList, TarShards, ImageTable))
