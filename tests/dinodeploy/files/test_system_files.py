"""What systems leave in folders is not there, for every command that writes into one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy import OutputExistsError
from dinodeploy.files.owned import first_foreign
from dinodeploy.files.system_files import entries, is_free, is_in_system_folder, is_system_file
from dinodeploy.tasks.results.store import check_target
from dinodeploy.visualize.write import check_output
from exporters.bundle.stage import refuse_existing
from tests.support.processes.command_line import CommandLine
from tests.support.processes.kill_runner import ROOT

LEFT = (
    *(".DS_Store", ".localized", ".Trash", ".Trashes", ".Trash-1000", "._photo.jpg", ".Spotlight-V100"),
    *("Thumbs.db", "THUMBS.DB", "desktop.ini", "Desktop.ini", "$RECYCLE.BIN", "System Volume Information"),
    *("lost+found", ".nfs000000000012ab3400000001", ".fuse_hidden0000001500000001", "@eaDir", ".directory"),
)
OURS = (
    "embeddings.json",
    ".embed",
    "img_emb",
    "nfs",
    ".nfsx",
    "trash",
    "thumbs.dbx",
    "model.onnx",
    ".",
    "._",
)


def test_the_table() -> None:
    assert [name for name in LEFT if not is_system_file(name)] == []
    assert [name for name in OURS if is_system_file(name)] == []
    assert is_in_system_folder("a/@eaDir/b")
    assert not is_in_system_folder("a/b")


def leave(folder: Path) -> None:
    """One of each, some as folders with something in them."""
    folder.mkdir(exist_ok=True)
    for name in LEFT:
        if name in ("lost+found", "@eaDir", ".Trash-1000", "$RECYCLE.BIN", "System Volume Information"):
            (folder / name).mkdir()
            (folder / name / "SYNO@.fileindexdb").touch()
        elif not (folder / name).exists():
            (folder / name).touch()


def test_a_folder_with_nothing_else_is_free(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert is_free(out)
    leave(out)
    assert is_free(out)
    assert entries(out) == []
    assert first_foreign(out, lambda name: False) == ""
    refuse_existing(out, overwrite=False)
    check_target(out, overwrite=False)
    check_output(out, None, overwrite=False)
    (out / "mine").touch()
    assert not is_free(out)
    for check in (refuse_existing, check_target):
        with pytest.raises(OutputExistsError):
            check(out, overwrite=True)


def test_embed_and_index_write_beside_them(tiny_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    out, photo = tmp_path / "out", ROOT / "exporters/photos/chelsea.jpg"
    leave(out)
    command = ("embed", photo, "--engine", tiny_bundle, "--out", out)
    assert run(*command).code == 0
    for again in ((), ("--overwrite",)):
        assert run(*command, *again).code == 0
    assert run("index", out).code == 0
    written = tmp_path / "out.index" / "index.json"
    assert written.exists()
    leave(written.parent)
    assert run("search", out, "--image", photo, "--engine", tiny_bundle).code == 0
    assert run("index", out, "--overwrite").code == 0
    assert (out / ".DS_Store").exists()
