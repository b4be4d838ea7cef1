"""Tar files, complete and damaged."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np

from dinodeploy.images.open import open_image
from dinodeploy.sources import open_source
from tests.dinodeploy.sources.reading import assert_same, read_all, read_by_threads
from tests.support.images.image_files import NAMES, encoded, write_tar

MEMBERS = {f"{name}.jpg": encoded(name) for name in NAMES}


def test_every_picture_from_any_thread() -> None:
    write_tar(Path("a.tar"), MEMBERS)
    write_tar(
        Path("b.tar"), {"n/" + "long" * 60 + ".png": encoded("coffee", format="PNG"), "n/1.json": b"{}"}
    )
    source = open_source(["a.tar", "b.tar"])
    assert list(source.ids) == [f"a.tar/{name}" for name in MEMBERS] + ["b.tar/n/" + "long" * 60 + ".png"]
    images = [*MEMBERS.values(), encoded("coffee", format="PNG")]
    assert_same(read_by_threads(source), [np.asarray(open_image(data)) for data in images])


def test_only_images_count_and_repeated_names_get_numbers() -> None:
    with tarfile.open("a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (
            ("./x.jpg", encoded("coffee")),
            ("x.jpg", encoded("china")),
            ("._x.jpg", b"mac"),
            ("x.cls", b"3"),
            ("empty.jpg", b""),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "x.jpg"
        archive.addfile(link)
    seen = read_all("a.tar")
    assert list(seen) == ["a.tar/x.jpg", "a.tar/x.jpg#2", "a.tar/empty.jpg", "a.tar/link.jpg"]
    np.testing.assert_array_equal(seen["a.tar/x.jpg#2"], np.asarray(open_image(encoded("china"))))
    np.testing.assert_array_equal(seen["a.tar/link.jpg"], seen["a.tar/x.jpg#2"])
    assert "empty" in seen["a.tar/empty.jpg"]
    assert open_source(["a.tar"]).skipped == {"a.tar": {".cls": 1}}  # type: ignore[attr-defined]


def test_the_readable_part_of_a_truncated_archive_is_kept() -> None:
    whole = write_tar(Path("a.tar"), MEMBERS).read_bytes()
    with tarfile.open("a.tar") as archive:
        third = archive.getmembers()[2]
    for cut, kept in ((third.offset_data + 9, 2), (third.offset + 100, 2), (third.offset_data, 2), (100, 0)):
        Path("cut.tar").write_bytes(whole[:cut])
        seen = read_all("cut.tar")
        assert list(seen) == [f"cut.tar/{name}" for name in list(MEMBERS)[:kept]] + ["cut.tar#rest"], cut
        assert f"lost after {kept} images" in seen["cut.tar#rest"]
        assert all(isinstance(one, np.ndarray) for one in list(seen.values())[:kept])


def test_damaged_header_is_not_taken_for_the_end() -> None:
    content = bytearray(write_tar(Path("a.tar"), MEMBERS).read_bytes())
    with tarfile.open("a.tar") as archive:
        third = archive.getmembers()[2]
    content[third.offset : third.offset + 20] = b"?" * 20
    Path("a.tar").write_bytes(content)
    seen = read_all("a.tar")
    assert len(seen) == 3
    assert f"no header at byte {third.offset}" in seen["a.tar#rest"]


def test_archive_without_its_end_marks_is_whole() -> None:
    content = write_tar(Path("a.tar"), MEMBERS).read_bytes()
    with tarfile.open("a.tar") as archive:
        last = archive.getmembers()[-1]
    Path("a.tar").write_bytes(content[: last.offset_data + -(-last.size // 512) * 512])
    assert list(read_all("a.tar")) == [f"a.tar/{name}" for name in MEMBERS]


def test_files_that_are_not_archives_are_quarantined() -> None:
    Path("a.tar").write_bytes(b"no archive " * 200)
    Path("empty.tar").touch()
    seen = read_all("a.tar", "empty.tar")
    assert list(seen) == ["a.tar#rest", "empty.tar#rest"]
    assert "lost after 0 images" in seen["a.tar#rest"]


def test_file_that_shrinks_afterwards_is_an_image_error() -> None:
    write_tar(Path("a.tar"), MEMBERS)
    source = open_source(["a.tar"])
    Path("a.tar").write_bytes(Path("a.tar").read_bytes()[:3000])
    assert "the file has changed" in str(read_by_threads(source)[-1])
    Path("a.tar").unlink()
    assert "No such file" in str(read_by_threads(source)[0])
