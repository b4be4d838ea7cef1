"""Inputs that a user names: files, folders, ranges, tables of paths, and several of them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from tests.dinodeploy.sources.reading import ALL, ids, misuse, read_all
from tests.support.image_files import NAMES, encoded, write_folder, write_tar


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
