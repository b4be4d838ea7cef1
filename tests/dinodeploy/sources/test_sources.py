"""Every kind of source: ids in a fixed order, pictures by position from many threads, broken ones apart."""

from __future__ import annotations

import io
import random
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinodeploy.errors import ImageError, MisuseError
from dinodeploy.images import open_image
from dinodeploy.sources import Source, SourceOptions, open_source, storage
from tests.photographs import photograph

NAMES = ("chelsea", "coffee", "rocket")


def encoded(name: str) -> bytes:
    file = io.BytesIO()
    photograph(name).resize((96, 64)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in NAMES:
        (tmp_path / "photos" / f"{name}.png").write_bytes(encoded(name))
    return tmp_path


def pixels(source: Source, index: int) -> np.ndarray[Any, Any]:
    return np.asarray(open_image(source.picture(index)))


def assert_pictures(source: Source, ids: list[str], names: tuple[str, ...] = NAMES) -> None:
    """The ids, and each picture behind them, from eight threads in any order."""
    assert list(source.ids) == ids
    order = [*range(len(ids))] * 6
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        for index, found in zip(order, pool.map(partial(pixels, source), order), strict=True):
            np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(encoded(names[index])))))
    source.close()


# ---- lists -------------------------------------------------------------------------------------


def test_a_list_is_relative_to_its_folder(photos: Path) -> None:
    (photos / "photos" / "list.txt").write_text("# mine\nrocket.png\r\n\nchelsea.png\nrocket.png\n")
    source = open_source(["photos/list.txt"])
    assert_pictures(source, ["photos/rocket.png", "photos/chelsea.png"], ("rocket", "chelsea"))


def test_standard_input(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("photos/coffee.png\nphotos/rocket.png\n"))
    assert_pictures(open_source(["-"]), ["photos/coffee.png", "photos/rocket.png"], ("coffee", "rocket"))


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("t.csv", "label,Path\ncat,photos/chelsea.png\nx,\n\ncup,photos/coffee.png\n", None),
        ("t.tsv", "label\timage\ncat\tphotos/chelsea.png\ncup\tphotos/coffee.png\n", None),
        ("t.csv", 'where,path\n"photos/chelsea.png",no\nphotos/coffee.png,no\n', "where"),
    ],
)
def test_a_column_of_paths(photos: Path, name: str, text: str, column: str | None) -> None:
    (photos / name).write_text(text, encoding="utf-8-sig")
    source = open_source([name], SourceOptions(column=column))
    assert_pictures(source, ["photos/chelsea.png", "photos/coffee.png"], ("chelsea", "coffee"))


def test_a_parquet_column_of_paths(photos: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2, 3], "file": ["rocket.png", None, "coffee.png"]}), "photos/t.parquet")
    source = open_source(["photos/t.parquet"])
    assert_pictures(source, ["photos/rocket.png", "photos/coffee.png"], ("rocket", "coffee"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "x,y\n1,2\n", "columns x, y, none of a usual name; choose one by --column"),
        ("a.csv", "path,y\n1,2\n", "no column 'z'; it has path, y"),
        ("a.csv", "z,path\n1,2\n\n,3\n", ""),
        ("a.csv", "y,z\n1,2\n3\n", "line 3: got 1 cells, wanted 2"),
        ("a.csv", "", "no column 'z'; it has none"),
        ("a.txt", "# nothing\n\n", "no picture under 'a.txt'"),
    ],
)
def test_lists_that_cannot_be_used(photos: Path, name: str, text: str, words: str) -> None:
    Path(name).write_text(text)
    options = SourceOptions(column=None if "x,y" in text else "z")
    if not words:
        assert list(open_source([name], options).ids) == ["1"]
        return
    with pytest.raises(MisuseError, match=words) as caught:
        open_source([name], options)
    assert "\n" not in str(caught.value)


# ---- archives ----------------------------------------------------------------------------------


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_archives_by_range(photos: Path) -> None:
    for index, name in enumerate(NAMES):
        write_tar(
            photos / f"t-{index:03d}.tar",
            {f"{name}.png": encoded(name), f"{name}.cls": b"1", "._x.png": b"x"},
        )
    source = open_source(["t-{000..002}.tar"])
    assert_pictures(source, [f"t-{index:03d}.tar/{name}.png" for index, name in enumerate(NAMES)])
    assert list(open_source(["t-00*.tar"]).ids) == list(source.ids)


def test_a_name_twice_in_an_archive_is_two_pictures(photos: Path) -> None:
    with tarfile.open("t.tar", "w") as archive:
        for name in ("chelsea", "coffee"):
            info = tarfile.TarInfo("same.png")
            info.size = len(encoded(name))
            archive.addfile(info, io.BytesIO(encoded(name)))
    source = open_source(["t.tar"])
    first, second = source.ids
    assert first == "t.tar/same.png"
    assert second.startswith("t.tar/same.png@")
    assert_pictures(source, [first, second], ("chelsea", "coffee"))


@pytest.mark.parametrize("cut", [1.5, 2.02])  # within the second picture; within the third's header
def test_of_a_truncated_archive_what_is_whole_is_kept(photos: Path, cut: float) -> None:
    picture = encoded("coffee")
    write_tar(photos / "t.tar", {f"{index}.png": picture for index in range(3)})
    size = 512 + (len(picture) + 511) // 512 * 512
    content = (photos / "t.tar").read_bytes()[: int(size * cut)]
    (photos / "t.tar").write_bytes(content)
    source = open_source(["t.tar"])
    whole = int(cut)
    assert list(source.ids) == [*(f"t.tar/{index}.png" for index in range(whole)), "t.tar#rest"]
    for index in range(whole):
        pixels(source, index)
    with pytest.raises(ImageError, match="byte"):
        source.picture(whole)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.tar.gz", b"\x1f\x8b" + b"0" * 600, "compressed by gzip; unpack"),
        ("t.tar", b"words" * 300, "tar archive"),
    ],
)
def test_what_is_no_archive_is_one_unreadable_picture(
    photos: Path, name: str, content: bytes, words: str
) -> None:
    Path(name).write_bytes(content)
    source = open_source([name])
    assert list(source.ids) == [f"{name}#rest"]
    with pytest.raises(ImageError, match=words):
        source.picture(0)


# ---- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_table_with_pictures(photos: Path, nested: bool, named: bool) -> None:
    column: list[Any] = [encoded(name) for name in NAMES]
    if nested:
        column = [{"bytes": content, "path": None} for content in column]
    table = {"image": column, "label": [0, 1, 2]} | ({"id": [*NAMES]} if named else {})
    pq.write_table(pa.table(table), "t.parquet", row_group_size=2)
    ids = list(NAMES) if named else [f"t.parquet#{row}" for row in range(3)]
    assert_pictures(open_source(["t.parquet"]), ids)


def test_large_row_groups_stay_on_disk(photos: Path) -> None:
    """Row groups of any size are read a few rows at a time."""
    noise = np.random.default_rng(0).integers(0, 256, (6000, 20_000), np.uint8)
    pq.write_table(pa.table({"image": [row.tobytes() for row in noise]}), "t.parquet", row_group_size=6000)
    source = open_source(["t.parquet"])
    before = pa.total_allocated_bytes()
    for index in (0, 1, 40, 39, 5999, 3):
        assert source.picture(index) == noise[index].tobytes()
    assert pa.total_allocated_bytes() - before < 60_000_000  # of 120 million; 43 were measured, of 240 too
    source.close()


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"image": [b"1", b"2"], "id": ["a", "a"]}, {}, "rows 0 and 1 have the same id 'a'"),
        ({"image": [b"1", b"2"]}, {"column": "img"}, "no column 'img'"),
        ({"image": [b"1", b"2"]}, {"id_column": "key"}, "no column 'key'"),
        ({"image": [b"1", b"2"], "n": [1, 2]}, {"column": "n"}, "'n' is int64; wanted pictures"),
        ({"a": [b"1", b"2"], "b": [b"1", b"2"]}, {}, "columns a, b, none of a usual name"),
    ],
)
def test_tables_that_cannot_be_used(photos: Path, columns: Any, options: Any, words: str) -> None:
    pq.write_table(pa.table(columns), "t.parquet")
    with pytest.raises(MisuseError, match=words):
        open_source(["t.parquet"], SourceOptions(**options))


def test_a_row_without_a_picture_and_a_damaged_table(photos: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([None, encoded("coffee")], pa.binary())}), "t.parquet")
    source = open_source(["t.parquet"])
    with pytest.raises(ImageError, match=r"'t.parquet#0': the row holds no picture"):
        source.picture(0)
    pixels(source, 1)
    (photos / "bad.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(MisuseError, match=r"'bad.parquet' cannot be read as a Parquet table"):
        open_source(["bad.parquet"])


@pytest.mark.slow
def test_saved_datasets(photos: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "key": datasets.Value("string")})
    rows = {"image": [{"bytes": encoded(name), "path": None} for name in NAMES], "key": list(NAMES)}
    split = datasets.Dataset.from_dict(rows, features=features)
    split.save_to_disk("one")
    assert_pictures(open_source(["one"]), list(NAMES))
    datasets.DatasetDict(
        {"train": split.remove_columns("key"), "test": split.select([0]).remove_columns("key")}
    ).save_to_disk("two")
    source = open_source(["two"])
    assert_pictures(source, ["two/train#0", "two/train#1", "two/train#2", "two/test#0"], (*NAMES, NAMES[0]))


# ---- URLs --------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    for name in NAMES:
        fs.pipe(f"/set/{name}.png", encoded(name))
    fs.pipe("/set/words.txt", b"chelsea.png")
    yield fs
    fs.rm("/set", recursive=True)


def test_folders_globs_and_files_behind_urls(memory: Any) -> None:
    ids = [f"memory:///set/{name}.png" for name in NAMES]
    assert_pictures(open_source(["memory://set"]), ids)
    assert_pictures(open_source(["memory://set/c*.png"]), ids[:2])
    assert_pictures(open_source(["memory://set/rocket.png"]), ["memory://set/rocket.png"], ("rocket",))


def test_archives_and_tables_behind_urls(memory: Any, photos: Path) -> None:
    write_tar(photos / "t.tar", {f"{name}.png": encoded(name) for name in NAMES})
    pq.write_table(pa.table({"image": [encoded(name) for name in NAMES]}), "t.parquet")
    for name in ("t.tar", "t.parquet"):
        memory.pipe(f"/set/{name}", (photos / name).read_bytes())
    assert_pictures(open_source(["memory://set/t.tar"]), [f"memory://set/t.tar/{name}.png" for name in NAMES])
    assert_pictures(
        open_source(["memory://set/t.parquet"]), [f"memory://set/t.parquet#{row}" for row in range(3)]
    )


def test_what_is_not_behind_a_url(memory: Any) -> None:
    source = open_source(["memory://set/none.png"])
    with pytest.raises(ImageError, match=r"'memory://set/none.png': does not exist"):
        source.picture(0)
    with pytest.raises(MisuseError, match="matches nothing"):
        open_source(["memory://set/*.webp"])
    with pytest.raises(MisuseError, match="no URL that can be read"):
        open_source(["nothing://set/x.png/"])


class Flaky(SimpleHTTPRequestHandler):
    """A server that fails on the first request for every file."""

    failed: set[str] = set()  # noqa: RUF012

    def do_GET(self) -> None:
        if "rocket" in self.path and self.path not in self.failed:
            self.failed.add(self.path)
            self.send_error(503)
            return
        super().do_GET()

    def log_message(self, *_: Any) -> None: ...


def test_http_tries_again_but_not_for_ever(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.01, 0.01))
    Flaky.failed.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Flaky, directory=str(photos))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/photos"
        source = open_source([f"{base}/rocket.png", f"{base}/none.png", "photos/coffee.png"])
        np.testing.assert_array_equal(pixels(source, 0), np.asarray(Image.open("photos/rocket.png")))
        with pytest.raises(ImageError, match="does not exist"):
            source.picture(1)
        pixels(source, 2)
        server.shutdown()


# ---- together ----------------------------------------------------------------------------------


def test_inputs_of_many_kinds(photos: Path) -> None:
    write_tar(photos / "t.tar", {"rocket.png": encoded("rocket")})
    (photos / "list.txt").write_text("photos/coffee.png\n")
    source = open_source(["photos/coffee.png", "t.tar", "list.txt", "photos/chelsea.png"])
    ids = ["photos/coffee.png", "photos/chelsea.png", "t.tar/rocket.png"]
    assert_pictures(source, ids, ("coffee", "chelsea", "rocket"))
    with pytest.raises(MisuseError, match="is the id of two pictures"):
        open_source(["t.tar", "photos", "t.tar"])


def test_a_path_named_twice_counts_once(photos: Path) -> None:
    (photos / "list.txt").write_text("photos/coffee.png\nphotos/rocket.png\n")
    source = open_source(["photos/rocket.png", "list.txt", "photos"])
    assert list(source.ids) == ["photos/rocket.png", "photos/coffee.png", "photos/chelsea.png"]


@pytest.mark.parametrize("options", [{"every": 0}, {"timeout": 0}, {"column": ""}])
def test_options_are_checked(options: Any) -> None:
    with pytest.raises(MisuseError):
        SourceOptions(**options)
