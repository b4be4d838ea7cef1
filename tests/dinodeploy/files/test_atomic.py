"""Files and directories appear whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from dinodeploy.files.atomic import atomic_directory, atomic_file, begin_directory, commit_directory


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["f"]


def test_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"half", "not bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_directory_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "out"
    target.mkdir(parents=True)
    (target / "old").touch()
    partial = begin_directory(target)
    (partial / "sub").mkdir()
    (partial / "sub" / "new").write_text("x")
    assert names(target) == ["old"]
    commit_directory(partial, target)
    assert names(target) == ["sub"]
    assert names(target.parent) == ["out"]


def test_directory_of_a_killed_namesake_is_cleared(tmp_path: Path) -> None:
    (begin_directory(tmp_path / "out") / "stale").touch()
    assert names(begin_directory(tmp_path / "out")) == []


def test_failed_rename_puts_the_old_directory_back(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError):
        commit_directory(tmp_path / "absent", target)
    assert names(target) == ["old"]
    assert names(tmp_path) == ["out"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out") as partial:
        (partial / "a").touch()
    assert names(tmp_path / "out") == ["a"]
    with suppress(KeyError), atomic_directory(tmp_path / "other") as partial:
        (partial / "a").touch()
        raise KeyError("x")
    assert names(tmp_path) == ["out"]
