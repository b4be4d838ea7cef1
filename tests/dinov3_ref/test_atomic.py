"""Files and folders appear complete or not at all, under names that no other process has."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinov3_ref import atomic


@pytest.mark.parametrize("old", ["nothing", "a file", "a folder"])
@pytest.mark.parametrize("new", ["a file", "a folder"])
def test_the_target_is_replaced_at_the_end(old: str, new: str, tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    make(target, old, "old")
    with atomic.replacing(target) as draft:
        assert draft.suffix == ".pth"
        make(draft, new, "new")
        assert content(target) == ("" if old == "nothing" else "old")
    assert content(target) == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("new", ["nothing", "a file", "a folder"])
@pytest.mark.parametrize("old", ["nothing", "a file", "a folder"])
def test_after_an_error_the_target_is_as_it_was(old: str, new: str, tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    make(target, old, "old")

    def interrupted() -> None:
        with atomic.replacing(target) as draft:
            make(draft, new, "new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert content(target) == ("" if old == "nothing" else "old")
    assert list(tmp_path.iterdir()) == ([] if old == "nothing" else [target])


def test_a_draft_that_was_not_written_leaves_the_folder_that_is_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    make(target, "a folder", "old")
    with pytest.raises(FileNotFoundError), atomic.replacing(target):
        pass
    assert content(target) == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_names_differ_within_a_process_and_are_found_again(tmp_path: Path) -> None:
    """As in two containers on one volume, where both processes are number 1."""
    target = tmp_path / "59"
    drafts = sorted(atomic.hidden_name(target) for _ in range(3))
    assert len(set(drafts)) == 3
    for path in (*drafts, atomic.hidden_name(tmp_path / "159"), target):
        path.mkdir()
    assert atomic.leftovers(target) == drafts


def test_lines_are_appended(tmp_path: Path) -> None:
    for line in ("one\n", "two é\n"):
        atomic.append(tmp_path / "log", line)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\ntwo é\n"


def make(path: Path, kind: str, text: str) -> None:
    if kind == "a folder":
        path.mkdir()
        (path / "inside").write_text(text)
    elif kind == "a file":
        path.write_text(text)


def content(path: Path) -> str:
    inside = path / "inside" if path.is_dir() else path
    return inside.read_text() if inside.exists() else ""
