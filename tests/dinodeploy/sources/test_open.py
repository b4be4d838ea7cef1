"""Inputs that a user names: files, folders, ranges, tables of paths, and several of them."""

from __future__ import annotations

import io
import os
import pickle
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.images.open import open_image
from dinodeploy.sources import FileSource, open_source
from tests.dinodeploy.sources.reading import ALL, assert_same, ids, misuse, read_all, read_by_threads
from tests.support.images.image_files import NAMES, encoded, write_folder, write_tar


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos")
    return tmp_path


def test_files_folders_and_globs_are_listed() -> None:
    assert ids("photos") == ALL
    assert ids("photos/still", "photos/**/astronaut.jpg", "photos") == [*ALL[2:], *ALL[:2]]
    assert ids("photos/still", recursive=False) == ALL[2:4]
    assert all(isinstance(seen, np.ndarray) for seen in read_all("photos").values())


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
    assert "no image under no path" in misuse()


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
