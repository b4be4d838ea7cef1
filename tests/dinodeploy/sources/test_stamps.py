"""Stamps of images: size, time and origin, and hashes of their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from dinodeploy.sources import FileSource, SourceOptions, Stamps, open_source
from dinodeploy.sources.stamps import UNKNOWN


def test_files_have_size_time_and_content(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), name[0].encode()[0]).save(tmp_path / name)
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "missing.png")]
    stamps = Stamps(FileSource(paths))
    status = (tmp_path / "a.png").stat()
    assert stamps.of([0]).tolist() == [[status.st_size, status.st_mtime_ns, 0]]
    assert stamps.of([2]).tolist() == [[UNKNOWN, UNKNOWN, 0]]
    hashes = stamps.hashes([1, 2])
    assert hashes[0].tobytes() == hashlib.sha256((tmp_path / "b.png").read_bytes()).digest()
    assert not hashes[1].any()


def test_each_is_asked_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    stamps = Stamps(FileSource([str(tmp_path / "a.png")]))
    before = stamps.all().copy()
    (tmp_path / "a.png").write_bytes(b"longer")
    np.testing.assert_array_equal(stamps.of([0]), before)


def test_another_path_under_the_same_id_is_another_origin(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    tags = []
    for name in ("a.png", "b.png"):
        (tmp_path / "t.csv").write_text(f"key,path\nk,{name}\n")
        both = [str(tmp_path / "t.csv"), str(tmp_path / "sub")]
        source = open_source(both, SourceOptions(id_column="key"))
        tags.append(Stamps(source).all()[:, 2].tolist())
    assert tags[0][0] != tags[1][0]
    assert tags[0][1] == tags[1][1] == 0, "the id of the other image tells its path"
