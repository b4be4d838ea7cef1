"""Zip files, complete and damaged."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.images.open import open_image
from dinodeploy.sources import open_source, zips
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
    assert "cannot be read as a zip file" in seen["cut.zip"]
    assert "cannot be read as a zip file" in seen["empty.zip"]
    assert [isinstance(one, str) for one in list(seen.values())[2:]] == [True, *[False] * 5]


def test_members_over_the_size_limit_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_MEMBER_BYTES", 100)
    assert all("wanted at most 100" in str(one) for one in read_all("p.zip").values())
