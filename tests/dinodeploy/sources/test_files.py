"""Lists of images, in a file or on standard input."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.images.open import open_image
from tests.dinodeploy.sources.reading import ALL, ids, misuse, read_all
from tests.support.images.image_files import encoded, write_folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos")
    return tmp_path


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_every_encoding(encoding: str, end: str) -> None:
    Path("list.txt").write_bytes(end.join(["# all", "a.jpg", "", "日本/猫.jpg"]).encode(encoding))
    assert ids("list.txt") == ["a.jpg", "日本/猫.jpg"]


def test_lines_as_people_write_them(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    Path("my photos").mkdir()
    for name in ("my photos/a.jpg", "b.jpg", "c.jpg ", "d.jpg"):
        Path(name).touch()
    home = here.as_posix()
    lines = [
        '"my photos/a.jpg"', "my photos\\a.jpg", "b.jpg  ", "c.jpg ", "~/d.jpg", f"file://{home}/my%20photos/a.jpg",
        "C:\\none\\x.jpg", "\\\\server\\share\\x.jpg",
    ]  # fmt: skip
    wanted = [
        "my photos/a.jpg", "b.jpg", "c.jpg ", f"{home}/d.jpg", f"{home}/my photos/a.jpg", "C:\\none\\x.jpg",
        "\\\\server\\share\\x.jpg",
    ]  # fmt: skip
    Path("list.txt").write_bytes("\r\n".join(lines).encode())
    assert ids("list.txt") == wanted
    Path("table.csv").write_bytes("\r\n".join(["path", *lines[1:2], *lines[4:]]).encode())
    assert ids("table.csv") == [wanted[0], *wanted[3:]]
    assert ids("~/d.jpg", f"file://{home}/b.jpg") == [f"{home}/d.jpg", f"{home}/b.jpg"]
    assert ids("~/*.jpg") == [f"{home}/b.jpg", f"{home}/d.jpg"]


def test_standard_input_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in misuse("-")
