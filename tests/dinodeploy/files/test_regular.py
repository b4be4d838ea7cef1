"""Regular files only, no link where a file is created, and names that nobody can guess."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dinodeploy.files import regular
from dinodeploy.files.regular import create_file, hidden_name, is_regular, open_regular, read_regular


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


SPECIAL: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    "loop": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("follow", [True, False])
def test_only_regular_files_are_opened(
    kind: str, follow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    SPECIAL[kind](Path("x"))
    with pytest.raises(OSError, match=r"not a regular file|symbolic links"):
        open_regular("x", follow=follow)
    assert not is_regular("x")


def test_a_name_with_a_null_byte() -> None:
    with pytest.raises(OSError, match="null byte"):
        open_regular("a\0b")
    assert not is_regular("a\0b")


def test_links_are_followed_where_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link") == b"content"
    assert is_regular(tmp_path / "file")
    assert not is_regular(tmp_path / "link")
    for no_link in (regular.NO_LINK, 0):  # 0: a system without O_NOFOLLOW
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(regular, "NO_LINK", no_link)
            with pytest.raises(OSError, match=r"not a regular file|replaced"):
                read_regular(tmp_path / "link", follow=False)
    assert read_regular(tmp_path / "file", follow=False) == b"content"


def test_a_file_exchanged_for_a_fifo_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.touch()
    real = os.open

    def exchanged(name: str, *args: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return real(name, *args)

    monkeypatch.setattr(os, "open", exchanged)
    with pytest.raises(OSError, match=r"not a regular file"):
        open_regular(path)


def test_a_file_exchanged_for_a_link_is_noticed_without_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.touch()
    (tmp_path / "other").write_bytes(b"other")
    real = os.open

    def exchanged(name: str, *args: int) -> int:
        path.unlink()
        path.symlink_to("other")
        return real(name, *args)

    monkeypatch.setattr(regular, "NO_LINK", 0)
    monkeypatch.setattr(os, "open", exchanged)
    with pytest.raises(OSError, match="replaced"):
        open_regular(path, follow=False)


@pytest.mark.parametrize("there", ["file", "link", "dangling link", "fifo", "folder"])
def test_nothing_that_exists_is_created_again(there: str, tmp_path: Path) -> None:
    path, victim = tmp_path / "x", tmp_path / "victim"
    victim.write_text("precious")
    if there == "file":
        path.write_text("mine")
    elif there == "link":
        path.symlink_to(victim)
    elif there == "dangling link":
        path.symlink_to(tmp_path / "absent")
    elif there == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(FileExistsError):
        create_file(path)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "absent").exists()


def test_a_created_file_knows_its_path_and_can_be_read(tmp_path: Path) -> None:
    with create_file(tmp_path / "x") as file:
        assert Path(file.name) == tmp_path / "x"
        file.write(b"abc")
        file.seek(1)
        assert file.read() == b"bc"
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~mask


def test_hidden_names_are_random_and_fit(tmp_path: Path) -> None:
    names = {hidden_name(tmp_path / "x", "partial").name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(".x.partial-") for name in names)
    create_file(hidden_name(tmp_path / ("é" * 127), "partial")).close()
