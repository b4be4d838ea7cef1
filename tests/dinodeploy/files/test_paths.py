"""Paths are spelled the same on every machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dinodeploy.files.paths import as_written, from_file_url, is_absolute, native_path, portable_path


def test_paths_of_windows() -> None:
    assert portable_path("C:\\photos\\猫.jpg", separator="\\") == "C:/photos/猫.jpg"
    assert portable_path("\\\\server\\share\\a.jpg", separator="\\") == "//server/share/a.jpg"
    assert portable_path("a\\b.jpg", separator="/") == "a\\b.jpg"  # a name on other systems


@pytest.mark.parametrize(
    ("path", "posix", "windows"),
    [
        ("/a", True, True),
        ("C:\\a", False, True),
        ("c:/a", False, True),
        ("\\\\server\\share", False, True),
        ("//server/share", True, True),
        ("a/b", False, False),
        ("a:b", False, True),
        ("1:/a", False, False),
        ("", False, False),
    ],
)
def test_absolute_paths(path: str, posix: bool, windows: bool) -> None:
    assert is_absolute(path, separator="/") is posix
    assert is_absolute(path, separator="\\") is windows


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}, {"PYTHONUTF8": "1"}])
def test_ids_do_not_depend_on_the_encoding_of_names(locale: dict[str, str]) -> None:
    code = (
        "import os; from dinodeploy.files.paths import *;"
        "name = os.fsdecode(b'\\xe7\\x8c\\xab\\xff'); id_ = portable_path(name);"
        "print(ascii(id_), native_path(id_) == name)"
    )
    settings = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **locale}
    ran = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True)
    assert ran.stdout == "'\\u732b\\udcff' True\n", ran.stderr


def test_names_of_another_encoding() -> None:
    assert portable_path(os.fsdecode(b"a\xff"), utf_8=False) == "a\udcff"
    assert native_path("a\udcff", utf_8=False) == os.fsdecode(b"a\xff")


@pytest.mark.parametrize(
    ("url", "posix", "windows"),
    [
        ("file:///a/b%20c.jpg", "/a/b c.jpg", "/a/b c.jpg"),
        ("file://localhost/a.jpg", "/a.jpg", "/a.jpg"),
        ("FILE:/a.jpg", "/a.jpg", "/a.jpg"),
        ("file:///C:/a.jpg", "/C:/a.jpg", "C:/a.jpg"),
        ("file://C:/a.jpg", "C:/a.jpg", "C:/a.jpg"),
        ("file://server/share/a.jpg", "//server/share/a.jpg", "//server/share/a.jpg"),
        ("file:///a/%FF#1?.jpg", "/a/\udcff#1?.jpg", "/a/\udcff#1?.jpg"),
        ("https://a/b", None, None),
        ("file:a.jpg", None, None),
        ("files/a.jpg", None, None),
    ],
)
def test_file_urls(url: str, posix: str | None, windows: str | None) -> None:
    assert from_file_url(url, separator="/") == posix
    assert from_file_url(url, separator="\\") == windows


@pytest.mark.parametrize(
    ("text", "there", "wanted"),
    [
        ("a.jpg", (), "a.jpg"),
        ("a.jpg  ", (), "a.jpg"),
        ("a.jpg  ", ("a.jpg  ", "a.jpg"), "a.jpg  "),
        ('"a b.jpg"', (), "a b.jpg"),
        ("'a.jpg' ", ("a.jpg",), "a.jpg"),
        ("'a.jpg'", ("'a.jpg'",), "'a.jpg'"),
        ('"', (), '"'),
        ("~/a.jpg", (), "/home/me/a.jpg"),
        ("~/a.jpg", ("~/a.jpg",), "~/a.jpg"),
        ("x\\a.jpg", ("x/a.jpg",), "x/a.jpg"),
        ("x\\a.jpg", ("x\\a.jpg", "x/a.jpg"), "x\\a.jpg"),
        ('"C:\\my photos\\a.jpg" ', (), "C:\\my photos\\a.jpg"),
    ],
)
def test_lines_as_people_write_them(
    text: str, there: tuple[str, ...], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert as_written(text, there.__contains__) == wanted
