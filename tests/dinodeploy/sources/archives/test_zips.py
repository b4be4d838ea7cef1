"""Zip files, complete and damaged."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.images.open import open_image
from dinodeploy.sources import open_source
from dinodeploy.sources.archives import zips
from tests.dinodeploy.sources.reading import assert_same, read_all, read_by_threads
from tests.support.images.image_files import NAMES, encoded

MEMBERS = {f"k/{name}.jpg": encoded(name) for name in NAMES}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in MEMBERS.items():
            archive.writestr(name, data)
        archive.writestr("__MACOSX/._x.jpg", b"mac")
        archive.writestr("notes.txt", b"")


def test_every_picture_from_any_thread() -> None:
    source = open_source(["p.zip"])
    assert list(source.ids) == [f"p.zip/{name}" for name in MEMBERS]
    assert_same(read_by_threads(source), [np.asarray(open_image(data)) for data in MEMBERS.values()])
    source.close()


def test_repeated_names_get_numbers() -> None:
    with zipfile.ZipFile("p.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("k/coffee.jpg", encoded("china"))
    seen = read_all("p.zip")
    np.testing.assert_array_equal(seen["p.zip/k/coffee.jpg#2"], np.asarray(open_image(encoded("china"))))
    np.testing.assert_array_equal(seen["p.zip/k/coffee.jpg"], np.asarray(open_image(encoded("coffee"))))


def test_damage_loses_only_what_is_damaged() -> None:
    content = bytearray(Path("p.zip").read_bytes())
    Path("cut.zip").write_bytes(content[:-100])
    content[300:320] = b"?" * 20  # inside the first member
    Path("holed.zip").write_bytes(content)
    Path("empty.zip").touch()
    seen = read_all("cut.zip", "empty.zip", "holed.zip")
    assert "lost after 8 members: cannot be read as a zip file" in seen["cut.zip#rest"]
    assert [isinstance(one, str) for one in list(seen.values())[:7]] == [*[False] * 6, True]
    assert "cannot be read as a zip file" in seen["empty.zip"]
    assert [isinstance(one, str) for one in list(seen.values())[8:]] == [True, *[False] * 5]


def test_members_over_the_size_limit_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_MEMBER_BYTES", 100)
    assert all("wanted at most 100" in str(one) for one in read_all("p.zip").values())


def test_links_lead_to_their_members() -> None:
    with zipfile.ZipFile("p.zip", "a") as archive:
        archive.writestr("blob", encoded("china"))
        for name, target in (
            ("l.jpg", "k/coffee.jpg"),
            ("k/chain.jpg", "../l.jpg"),
            ("china.jpg", "blob"),
            ("out.jpg", "../../etc/x.jpg"),
            ("loop.jpg", "loop.jpg"),
            ("none.jpg", "none"),
        ):
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
    seen = read_all("p.zip")
    for name, wanted in (("l.jpg", "coffee"), ("k/chain.jpg", "coffee"), ("china.jpg", "china")):
        np.testing.assert_array_equal(seen[f"p.zip/{name}"], np.asarray(open_image(encoded(wanted))))
    assert "'../../etc/x.jpg', which leads out of the archive" in seen["p.zip/out.jpg"]
    assert "'loop.jpg', which leads back to itself" in seen["p.zip/loop.jpg"]
    assert "'none', which is not in the archive" in seen["p.zip/none.jpg"]


def test_backslashes_of_windows_are_slashes() -> None:
    with zipfile.ZipFile("w.zip", "w") as archive:
        for name in ("cats\\1.jpg", "cats\\", "__MACOSX\\._1.jpg", "a\\.hidden\\2.jpg"):
            archive.writestr(name, encoded("coffee"))
    assert list(read_all("w.zip")) == ["w.zip/cats/1.jpg"]


def test_names_that_lead_out_of_their_folder_are_no_hidden_names() -> None:
    names = ["../photos/1.jpg", "a/../2.jpg", "a/./3.jpg"]
    with zipfile.ZipFile("w.zip", "w") as archive:
        for name in (*names, "../.hidden/4.jpg", "../notes.txt", "..\\photos\\5.jpg"):
            archive.writestr(name, encoded("coffee"))
    assert list(read_all("w.zip")) == [f"w.zip/{name}" for name in (*names, "../photos/5.jpg")]
    assert open_source(["w.zip"]).skipped == {"w.zip": {".txt": 1}}  # type: ignore[attr-defined]


def test_encrypted_members_say_so() -> None:
    content = bytearray(Path("p.zip").read_bytes())
    content[6] |= 1  # the flag in the first member's header, and in the directory
    content[content.index(b"PK\1\2") + 8] |= 1
    Path("p.zip").write_bytes(content)
    seen = list(read_all("p.zip").values())
    assert "encrypted, password required" in seen[0]
    assert [isinstance(one, str) for one in seen] == [True, *[False] * 5]
