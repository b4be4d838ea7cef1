"""What the user's words mean: files, lists, tables of paths, and several of them at once."""

from __future__ import annotations

import io
import os
import pickle
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.images.open import open_image
from dinodeploy.sources import FileSource, SourceOptions, open_source
from tests.dinodeploy.sources.reading import assert_same, read_all, read_by_threads
from tests.support.image_files import NAMES, encoded, write_folder, write_tar

ALL = [
    "photos/animate/astronaut.jpg",
    "photos/animate/deep/er/chelsea.jpg",
    "photos/still/china.jpg",
    "photos/still/coffee.jpg",
    "photos/still/deep/er/flower.jpg",
    "photos/still/deep/er/rocket.jpg",
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos")
    return tmp_path


def ids(*inputs: str, **options: Any) -> list[str]:
    return list(open_source(inputs, SourceOptions(**options)).ids)


def misuse(*inputs: str, **options: Any) -> str:
    with pytest.raises(MisuseError) as caught:
        open_source(inputs, SourceOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_folders_and_globs_are_listed() -> None:
    assert ids("photos") == ALL
    assert ids("photos/still", "photos/**/astronaut.jpg", "photos") == [*ALL[2:], *ALL[:2]]
    assert ids("photos/still", recursive=False) == ALL[2:4]
    assert all(isinstance(seen, np.ndarray) for seen in read_all("photos").values())


def test_list_file_starts_at_its_folder() -> None:
    Path("photos/list.txt").write_bytes(
        b"\xef\xbb\xbf# comment\r\nstill/coffee.jpg\r\n\n   \nstill/no such.jpg\n../photos/still/china.jpg"
    )
    seen = read_all("photos/list.txt")
    assert list(seen) == [
        "photos/still/coffee.jpg",
        "photos/still/no such.jpg",
        "photos/../photos/still/china.jpg",
    ]
    assert "No such file" in seen["photos/still/no such.jpg"]
    np.testing.assert_array_equal(
        seen["photos/still/coffee.jpg"], np.asarray(open_image("photos/still/coffee.jpg"))
    )


def test_standard_input_starts_here(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO("photos/still/coffee.jpg\nphotos/ü.jpg\n".encode())

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert ids("-", "photos/animate") == ["photos/still/coffee.jpg", "photos/ü.jpg", *ALL[:2]]


def test_lists_may_hold_names_that_are_not_unicode() -> None:
    name = b"photos/\xff.jpg"
    Path(os.fsdecode(name)).write_bytes(encoded("coffee"))
    Path("list.txt").write_bytes(name)
    (seen,) = read_all("list.txt").values()
    assert isinstance(seen, np.ndarray)


@pytest.mark.parametrize(
    ("name", "header", "options"),
    [
        ("t.csv", "label,path", {}),
        ("t.csv", "label;Image_Path", {}),
        ("t.tsv", "label\tFILE", {}),
        ("t.csv", "label,odd", {"column": "odd"}),
        ("t.csv", "\ufefflabel,url", {}),
    ],
)
def test_table_of_paths(name: str, header: str, options: dict[str, Any]) -> None:
    mark = next(sign for sign in ",;\t" if sign in header)
    rows = ["a|photos/still/coffee.jpg", "b|", 'c|"photos/still/china.jpg"', "", "d|photos/none.jpg", "e"]
    Path(name).write_text("\n".join([header, *rows]).replace("|", mark), encoding="utf-8")
    seen = read_all(name, **options)
    assert list(seen) == [ALL[3], f"{name}#1", ALL[2], "photos/none.jpg", f"{name}#4"]
    assert [type(one) is str for one in seen.values()] == [False, True, False, True, True]
    assert "this row has no image" in seen[f"{name}#1"]


def test_only_column_needs_no_name() -> None:
    Path("t.csv").write_text("pictures\nphotos/still/coffee.jpg\n")
    assert ids("t.csv") == [ALL[3]]


def test_ids_of_a_table_stay_with_their_rows() -> None:
    Path("t.csv").write_text(
        "key,path\nx,photos/still/coffee.jpg\ny,photos/none.jpg\nz,\nw,photos/still/coffee.jpg\n"
    )
    seen = read_all("t.csv", id_column="key")
    assert list(seen) == ["x", "y", "z", "w"]  # the same picture under two ids stays two rows
    np.testing.assert_array_equal(seen["x"], seen["w"])
    assert "'z': this row has no image" in seen["z"]


def test_table_misuse_is_one_line() -> None:
    Path("t.csv").write_text("key,where\nx,1.jpg\n,2.jpg\nx,3.jpg\n")
    assert "has columns 'key', 'where'; none has a usual name (path, filepath" in misuse("t.csv")
    assert "has no column 'nope', only key, where" in misuse("t.csv", column="nope")
    assert "row 1 has no 'key'" in misuse("t.csv", column="where", id_column="key")
    Path("u.csv").write_text("key,path\nx,1.jpg\nx,3.jpg\n")
    assert "the id 'x' is given to two images" in misuse("u.csv", id_column="key")
    Path("empty.csv").touch()
    assert "'empty.csv' is empty; wanted a table with a header" in misuse("empty.csv")
    os.mkfifo("fifo.csv")
    assert "not a regular file" in misuse("fifo.csv")
    os.mkfifo("fifo.txt")
    assert "not a regular file" in misuse("fifo.txt")


def test_joined_inputs_keep_order_without_repeats() -> None:
    Path("l.txt").write_text("photos/still/coffee.jpg\nphotos/still/china.jpg\n")
    write_tar(Path("s.tar"), {"coffee.jpg": encoded("coffee")})
    assert ids("l.txt", "s.tar", "photos", "s.tar", "./l.txt") == [
        ALL[3], ALL[2], "s.tar/coffee.jpg", ALL[0], ALL[1], ALL[4], ALL[5]
    ]  # fmt: skip
    source = open_source(["l.txt", "s.tar", "photos"])
    assert_same(
        read_by_threads(source),
        [np.asarray(open_image(id_ if ".tar" not in id_ else encoded("coffee"))) for id_ in source.ids],
    )
    assert source.ids[-1] == ALL[5]
    assert list(source.ids[1:3]) == [ALL[2], "s.tar/coffee.jpg"]
    with pytest.raises(IndexError):
        source.ids[len(source.ids)]


def test_files_alone_are_one_source_that_can_be_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the workers of a cluster, which have no standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"photos/still/coffee.jpg\n")))
    source = open_source(["-", "photos", "photos/still/china.jpg"])
    assert isinstance(source, FileSource)
    sent = pickle.loads(pickle.dumps(source))
    assert list(sent.ids) == list(source.ids) == [ALL[3], *ALL[:3], *ALL[4:]]
    assert sent.image(2) == ALL[1]
    write_tar(Path("s.tar"), {"coffee.jpg": encoded("coffee")})
    assert not isinstance(open_source(["photos", "s.tar"]), FileSource)


def test_an_id_of_a_table_may_not_be_the_path_of_another_image() -> None:
    Path("t.csv").write_text(f"key,path\n{ALL[0]},photos/still/coffee.jpg\n")
    assert "is given to two images" in misuse("photos", "t.csv", id_column="key")


def test_ranges_are_expanded() -> None:
    for number in (8, 9, 10):
        write_tar(Path(f"s-{number:02d}.tar"), {f"{number}.jpg": encoded("rocket")})
    wanted = ["s-08.tar/8.jpg", "s-09.tar/9.jpg", "s-10.tar/10.jpg"]
    assert ids("s-{08..10}.tar") == wanted
    assert ids("s-*.tar") == wanted
    assert "'s-07.tar' does not exist" in misuse("s-{07..10}.tar")
    assert "got the range {9..8}" in misuse("s-{9..8}.tar")
    Path("{1..2}.jpg").touch()
    assert ids("{1..2}.jpg") == ["{1..2}.jpg"]


def test_a_folder_without_images_says_what_it_holds() -> None:
    Path("shards").mkdir()
    write_tar(Path("shards/a.tar"), {"x.jpg": b""})
    assert "it holds a.tar: name such files, shards/*.tar" in misuse("shards")
    assert "'nowhere' does not exist" in misuse("nowhere")
    assert "no picture under no path" in misuse()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every: got 0, wanted a whole number of frames"),
        ({"every": 1.5}, "every: got 1.5"),
        ({"timeout": 0}, "timeout: got 0, wanted a positive number"),
        ({"timeout": float("inf")}, "timeout: got inf"),
        ({"column": ""}, "column: got ''"),
        ({"id_column": 3}, "id column: got 3"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError) as caught:
        SourceOptions(**options)
    assert message in str(caught.value)


def test_special_files_do_not_block() -> None:
    os.mkfifo("fifo.jpg")
    Path("zero.jpg").symlink_to("/dev/zero")
    Path("tty.jpg").symlink_to("/dev/tty")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket.jpg")
    seen = read_all("fifo.jpg", "zero.jpg", "tty.jpg", "socket.jpg")
    server.close()
    assert all("not a regular file" in str(why) or "cannot be opened" in str(why) for why in seen.values())
    for suffix in ("tar", "parquet", "arrow", "mp4"):
        os.mkfifo(f"fifo.{suffix}")
        Path(f"zero.{suffix}").symlink_to("/dev/zero")
        for name in (f"fifo.{suffix}", f"zero.{suffix}"):
            ((id_, why),) = read_all(name).items()
            assert id_.startswith(name)
            assert "not a regular file" in str(why)


def test_ids_are_the_same_every_time() -> None:
    write_tar(Path("s.tar"), {f"{name}.jpg": encoded(name) for name in NAMES})
    first = ids("photos", "s.tar", "photos/**/*.jpg")
    assert first == ids("photos", "s.tar", "photos/**/*.jpg")
    assert len(set(first)) == len(first)
