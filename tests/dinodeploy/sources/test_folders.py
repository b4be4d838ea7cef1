"""Which images a user means, and in which order."""

from __future__ import annotations

import errno
import glob
import os
from pathlib import Path
from typing import Any

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.sources.folders import (
    Lost,
    expand_path,
    find_images,
    list_images,
    skipped_line,
    suffix_of,
    total_of,
)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.jpg",
        "A.PNG",
        "note.txt",
        ".hidden.jpg",
        "a/z.webp",
        "a/b/c.tiff",
        ".git/d.jpg",
        "aa.jpg",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Path("photos")


ALL = ["photos/A.PNG", "photos/a/b/c.tiff", "photos/a/z.webp", "photos/aa.jpg", "photos/b.jpg"]


def test_folder_is_walked_in_sorted_order(photos: Path) -> None:
    assert list_images([photos]) == ALL
    assert list_images(["photos/"]) == ALL
    assert list_images([photos.absolute()]) == [(Path.cwd() / name).as_posix() for name in ALL]


def test_here_gives_relative_ids(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert list_images(["."]) == [name.removeprefix("photos/") for name in ALL]


def test_explicit_files_count_whatever_their_name(photos: Path) -> None:
    named = ["photos/note.txt", "photos/.hidden.jpg"]
    assert list_images(named) == named


def test_first_mention_wins(photos: Path) -> None:
    assert list_images(["photos/b.jpg", photos, "./photos/b.jpg"]) == ["photos/b.jpg", *ALL[:-1]]


def test_globs_stand_for_what_they_match(photos: Path) -> None:
    assert list_images(["photos/*.jpg"]) == ["photos/aa.jpg", "photos/b.jpg"]
    assert list_images(["photos/**/*.tiff"]) == ["photos/a/b/c.tiff"]
    assert list_images(["photos/[a]"]) == ["photos/a/b/c.tiff", "photos/a/z.webp"]
    (photos / "[1].jpg").touch()  # a name that is there is no glob
    assert list_images(["photos/[1].jpg"]) == ["photos/[1].jpg"]


def test_what_bears_the_name_of_an_image_is_listed(photos: Path) -> None:
    os.mkfifo(photos / "c-fifo.jpg")
    (photos / "d-broken.jpg").symlink_to("nowhere")
    (photos / "e-loop.jpg").symlink_to("e-loop.jpg")
    (photos / "folder.jpg").mkdir()
    (photos / "folder.jpg" / "g.gif").touch()
    strange = ["c-fifo.jpg", "d-broken.jpg", "e-loop.jpg", "folder.jpg/g.gif"]
    assert list_images([photos]) == [*ALL, *(f"photos/{name}" for name in strange)]
    assert list_images(["photos/d-broken.jpg"]) == ["photos/d-broken.jpg"]


def test_links_between_folders_cannot_loop(photos: Path) -> None:
    (photos / "a" / "up").symlink_to("..")
    (photos / "a" / "self").symlink_to(".")
    assert list_images([photos]) == ALL
    (photos / "linked").symlink_to((photos / "a").absolute())
    assert list_images(["photos/linked/"])[:2] == ["photos/linked/b/c.tiff", "photos/linked/up/A.PNG"]


class Faults:
    """Folders that fail when they are listed, and file systems that give every folder the same number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def fail(self, folder: str, code: int) -> None:
        scandir = os.scandir

        def failing(path: Any = ".") -> Any:
            if path == folder:
                raise OSError(code, os.strerror(code), folder)
            return scandir(path)

        self._monkeypatch.setattr(os, "scandir", failing)

    def number_all(self, inode: int) -> None:
        real = os.stat

        def stat(path: Any, **options: Any) -> os.stat_result:
            fields = list(real(path, **options))
            return os.stat_result([fields[0], inode, *fields[2:]])

        self._monkeypatch.setattr(os, "stat", stat)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ELOOP, errno.ENOENT, errno.ESTALE])
def test_a_folder_that_cannot_be_listed_loses_only_itself(photos: Path, faults: Faults, code: int) -> None:
    faults.fail("photos/a/b", code)
    for pattern in ("photos", "photos/**", "photos/**/*.*"):
        found = find_images([pattern])
        assert set(found.ids) >= set(ALL) - {"photos/a/b/c.tiff"}
        assert found.lost == [Lost("photos/a/b", os.strerror(code))]
        assert found.lost[0].id == "photos/a/b/"
    with pytest.raises(
        MisuseError, match=f"'photos/a/b' cannot be listed: {os.strerror(code)}; leave it out"
    ):
        list_images(["photos"])


def test_a_folder_alone_that_cannot_be_listed_is_misuse(photos: Path, faults: Faults) -> None:
    faults.fail("photos/a/b", errno.EACCES)
    for paths in (["photos/a/b"], ["photos/a/b/*.jpg"]):
        with pytest.raises(MisuseError, match="'photos/a/b' cannot be listed: Permission denied"):
            find_images(paths)


def test_a_link_that_cannot_be_followed_is_not_lost_in_silence(photos: Path) -> None:
    (photos / "f-loop").symlink_to("f-loop")
    (photos / "gone").symlink_to("/nowhere/at/all")
    found = find_images(["photos"])
    assert found.lost == [Lost("photos/f-loop", "Too many levels of symbolic links")]
    assert total_of(found.skipped) == {".txt": 1, "": 1}


@pytest.mark.parametrize("inode", [0, 1])
def test_file_systems_that_do_not_number_their_folders(photos: Path, faults: Faults, inode: int) -> None:
    (photos / "a" / "up").symlink_to("..")
    faults.number_all(inode)
    assert list_images(["photos"]) == ALL
    assert list_images(["photos/**/*.tiff", "photos"])[0] == "photos/a/b/c.tiff"


def test_globs_do_not_follow_links_in_circles(photos: Path) -> None:
    (photos / "a" / "up").symlink_to("..")
    assert list_images(["photos/**/*.tiff"]) == ["photos/a/b/c.tiff"]


@pytest.mark.parametrize(
    "pattern",
    ["*", "photos/*", "**", "**/*.jpg", "photos/**", "photos/**/b", "photos/[!a]*.jpg", "./photos/?.jpg",
     "photos/.*/*.jpg", "photos/.git/*", "photos//a*/*.webp", "*/a/*/*", "*/b.jpg", "photos/**/**/*.tiff"],
)  # fmt: skip
def test_globs_are_those_of_python(photos: Path, pattern: str) -> None:
    for path in (pattern, f"{Path.cwd()}/{pattern}"):
        wanted = sorted({Path(match).as_posix() for match in glob.glob(path, recursive=True)})  # noqa: PTH207
        assert expand_path(path) == wanted


def test_files_that_are_left_out_are_counted(photos: Path) -> None:
    for name in (
        "1.PSD", "2.psd", "a/3.dng", "Thumbs.db", "a/desktop.ini", ".DS_Store", "README", "v1.2 draft copy"
    ):  # fmt: skip
        (photos / name).touch()
    found = find_images(["photos", "./photos"])
    assert found.ids == ALL
    assert found.skipped == {"photos": {".psd": 2, ".txt": 1, "": 2}, "photos/a": {".dng": 1}}
    line = skipped_line(total_of(found.skipped))
    assert line == "skipped 6 files: 2 without suffix, 2 .psd, 1 .dng, 1 .txt"
    (photos / "only").mkdir()
    (photos / "only" / "x.psd").touch()
    with pytest.raises(MisuseError, match=r"no image under 'photos/only'; .*; skipped 1 file: 1 .psd"):
        list_images(["photos/only"])


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.JPG", ".jpg"),
        ("a.tar.gz", ".gz"),
        ("a", ""),
        (".a", ""),
        ("a.", ""),
        ("x/y.b/c", ""),
        ("a.b c", ""),
    ],
)
def test_suffixes(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix


def test_names_are_in_one_order_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["B.jpg", "a-b.jpg", "a.jpg", "a/x.jpg", "é.jpg", "日.jpg", "😀.jpg"]
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    walked = list_images(["."])
    assert walked == ["B.jpg", "a/x.jpg", *names[1:3], *names[4:]]
    flat = [name for name in walked if "/" not in name]
    assert flat == sorted(flat, key=os.fsencode)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["photos/absent.jpg"], "'photos/absent.jpg' does not exist"),
        (["photos", "photos/*.bmp"], "'photos/*.bmp' matches nothing"),
        ([""], "'' is not a path"),
        (["a\0b"], r"'a\x00b' is not a path"),
        ([], "no image under no path; looked for .jpg"),
        (["photos/.git/objects"], "'photos/.git/objects' does not exist"),
    ],
)
def test_misuse_is_one_line(photos: Path, paths: list[str], message: str) -> None:
    with pytest.raises(MisuseError) as caught:
        list_images(paths)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_without_images_names_the_suffixes(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match=r"no image under .*; looked for \.jpg \.jpeg .*\.avif"):
        list_images([tmp_path])
