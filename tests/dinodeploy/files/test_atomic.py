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


def test_two_writers_have_two_names(tmp_path: Path) -> None:
    """Process ids repeat: two containers on one volume may both run as process 1."""
    first = begin_directory(tmp_path / "out")
    (first / "half").touch()
    assert names(begin_directory(tmp_path / "out")) == []
    assert names(first) == ["half"]
    with atomic_file(tmp_path / "f") as one, atomic_file(tmp_path / "f") as other:
        one.write(b"one")
        other.write(b"other")
    assert (tmp_path / "f").read_bytes() == b"one"


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one who guesses the hidden name cannot make us write elsewhere."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".f.partial-0000000000000000").symlink_to(victim)
    with pytest.raises(FileExistsError), atomic_file(tmp_path / "f"):
        pass
    with pytest.raises(FileExistsError):
        begin_directory(tmp_path / "f")
    assert victim.read_text() == "precious"
    assert names(tmp_path) == [".f.partial-0000000000000000", "victim"]


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
