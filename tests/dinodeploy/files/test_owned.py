"""What a record lists is deleted only if our writers can have produced it, inside, and without a link."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy import BundleError
from dinodeploy.files.owned import first_foreign, owned_path, remove_owned


def is_ours(name: str) -> bool:
    return name.endswith(".npy")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/x.npy",
        "../x.npy",
        "a/../../x.npy",
        "",
        ".",
        "a//x.npy",
        "a/./x.npy",
        "a\\x.npy",
        "x\0.npy",
        "x.jpg",
    ],
)
def test_a_name_that_is_never_written_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.jpg").touch()
    (tmp_path / "good.npy").touch()
    with pytest.raises(BundleError, match="nothing was deleted"):
        remove_owned(tmp_path, ["good.npy", name], is_ours)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.npy", "x.jpg"]


def test_a_link_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.npy").touch()
    (tmp_path / "store").mkdir()
    (tmp_path / "store/emb").symlink_to("../elsewhere")
    with pytest.raises(BundleError, match="is a link or a file, wanted a folder"):
        remove_owned(tmp_path / "store", ["emb/x.npy"], is_ours)
    assert (tmp_path / "elsewhere/x.npy").exists()


def test_a_link_at_the_end_is_removed_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "store").mkdir()
    (tmp_path / "store/x.npy").symlink_to("../target")
    remove_owned(tmp_path / "store", ["x.npy"], is_ours)
    assert (tmp_path / "target").exists()
    assert not list((tmp_path / "store").iterdir())


def test_folders_go_when_they_become_empty(tmp_path: Path) -> None:
    for name in ("a/b/1.npy", "a/2.npy", "c/3.npy", "c/user.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_owned(tmp_path, ["a/b/1.npy", "a/2.npy", "c/3.npy", "d/gone.npy"], is_ours)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "c",
        "c/user.txt",
    ]


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to("disk")
    assert owned_path(tmp_path / "store", "a/x.npy", is_ours) == tmp_path / "store/a/x.npy"


def test_foreign_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.npy").touch()
    assert first_foreign(tmp_path, is_ours) == ""
    (tmp_path / "a/link").symlink_to("/")
    assert first_foreign(tmp_path, is_ours) == "a/link"
