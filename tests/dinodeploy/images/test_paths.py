"""Which images a user means, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.images.paths import list_images


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
    (photos / "f-loop").symlink_to("f-loop")
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
    with pytest.raises(MisuseError, match=r"no image under .*; looked for \.jpg \.jpeg .*\.avif$"):
        list_images([tmp_path])
