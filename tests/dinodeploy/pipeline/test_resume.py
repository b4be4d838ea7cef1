"""Whatever stops a run, and whenever: the same command resumes, and ends in the same bytes."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dinodeploy import BundleError, OutputExistsError, UnavailableError, load_embeddings
from tests.support.fake_engine import MadeUp, embed_all, embedder, engine, tree
from tests.support.processes.kill_runner import BAD, PICTURES, ROOT, Children

KILLS = 60


@pytest.fixture(scope="module")
def child() -> Iterator[Children]:
    with Children() as children:
        yield children


@pytest.fixture(scope="module")
def undisturbed(child: Children, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert child(out)["code"] == 0
    ids, vectors = load_embeddings(out)
    assert ids == [f"{index:06d}.png" for index in range(PICTURES) if index not in BAD]
    assert [round((vector[0] + 1) / 2 * 255) for vector in vectors] == [int(id_[:6]) for id_ in ids]
    return tree(out)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of runs would wait for fsync otherwise."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="dinodeploy_", dir=memory) as folder:
        yield Path(folder)


def test_a_run_killed_at_random_moments(child: Children, undisturbed: dict[str, bytes], disk: Path) -> None:
    """kill -9 from outside, again and again, until a run comes through: nothing twice, nothing lost."""
    rng = random.Random(0)
    started = time.perf_counter()
    child(disk / "first")
    whole = time.perf_counter() - started
    kills = stores = 0
    while kills < KILLS:
        out = disk / f"{stores}"
        stores += 1
        while (ended := child(out, kill_after=rng.uniform(0, 1.2 * whole)))["signal"]:
            assert ended["signal"] == signal.SIGKILL
            kills += 1
        assert (ended["code"], ended["error"]) == (0, "")
        assert tree(out) == undisturbed


@pytest.mark.slow
def test_a_run_killed_at_every_change_of_the_file_system(
    child: Children, undisturbed: dict[str, bytes], disk: Path
) -> None:
    changes = child(disk / "whole")["changes"]
    assert changes > 40, "the hooks see what is written"
    for change in range(1, changes + 1):
        out = disk / f"{change}"
        ended = child(out, kill_at=change)
        assert ended["signal"] == signal.SIGKILL, change
        assert child(out)["error"] == "", change
        assert tree(out) == undisturbed, change


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_disk_that_fails_at_any_moment(
    child: Children, undisturbed: dict[str, bytes], disk: Path, number: int
) -> None:
    """A full disk, permissions taken, a broken disk: one line, and the rest is done once that is fixed."""
    changes = child(disk / "whole")["changes"]
    for change in range(1, changes + 1, 2 if number == errno.ENOSPC else 9):
        out = disk / f"{change}"
        ended = child(out, fail_at=change, errno=number)
        if ended["code"]:  # what fails while tidying up at the end stops nobody
            assert ended["code"] in (2, 4), (change, ended)
            assert ended["error"].startswith(("UnavailableError: ", "MisuseError: ")), (change, ended)
            assert "\n" not in ended["error"]
        assert child(out)["error"] == "", change
        assert tree(out) == undisturbed, change


def test_finished_shards_are_kept(disk: Path) -> None:
    """Only what is missing is opened again; a file of another size is missing."""
    source = MadeUp(14)
    with pytest.raises(RuntimeError):
        embed_all(source, disk / "out", engine=embedder(breaks_after(3)))
    again = MadeUp(14)
    report, manifest = embed_all(again, disk / "out")
    assert manifest is not None
    assert 0 < report.kept < 14
    assert sorted(again.opened) == list(range(report.kept, 14))
    assert report.kept + report.embedded == manifest.count == 14
    embed_all(MadeUp(14), disk / "undisturbed")
    assert tree(disk / "out") == tree(disk / "undisturbed")


def test_a_shard_whose_file_was_cut_short_is_made_again(disk: Path) -> None:
    with pytest.raises(RuntimeError):
        embed_all(MadeUp(14), disk / "out", engine=embedder(breaks_after(4)))
    damaged = disk / "out/img_emb/img_emb_00000.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    record = disk / "out/.embed/shards/00001.json"
    record.write_bytes(record.read_bytes()[:10])
    again = MadeUp(14)
    report, _ = embed_all(again, disk / "out")
    assert (report.kept, sorted(again.opened)) == (0, list(range(14)))
    embed_all(MadeUp(14), disk / "undisturbed")
    assert tree(disk / "out") == tree(disk / "undisturbed")


def test_a_complete_store_is_left_as_it_is(disk: Path) -> None:
    source = MadeUp(9, bad=[4])
    embed_all(source, disk / "out")
    before = {path: path.stat().st_mtime_ns for path in (disk / "out").rglob("*")}
    again = MadeUp(9, bad=[4])
    report, manifest = embed_all(again, disk / "out")
    assert manifest is not None
    assert (manifest.count, manifest.quarantined) == (8, 1)
    assert (report.embedded, again.opened) == (0, [])
    assert {path: path.stat().st_mtime_ns for path in (disk / "out").rglob("*")} == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fingerprint": {"model": "y"}}, "(model: x, now y)"),
        ({"fingerprint": {"model": "x", "preprocess": {"height": 64}}}, "(preprocess.height: null, now 64)"),
        ({"outputs": ("cls",)}, "(outputs: cls,patch, now cls)"),
        ({"shard_size": 5}, "(shard size: 4, now 5)"),
        ({"format": "npz"}, "(format: npy, now npz)"),
        ({"dtype": "int8"}, "(dtype: float32, now int8)"),
        ({"pictures": 13}, "(pictures: 14, now 13)"),
        ({"other ids": True}, "(the listing: other images, now these)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("complete", [False, True])
def test_another_run_is_not_mixed_in(
    disk: Path, complete: bool, changed: dict[str, Any], message: str
) -> None:
    """What differs is named; nothing is touched; --overwrite begins anew."""
    if complete:
        embed_all(MadeUp(14), disk / "out")
    else:
        with pytest.raises(RuntimeError):
            embed_all(MadeUp(14), disk / "out", engine=embedder(breaks_after(3)))
    before = tree(disk / "out")
    changed = dict(changed)
    source = MadeUp(changed.pop("pictures", 14))
    if changed.pop("other ids", False):
        source.ids[3] = "another.png"
    with pytest.raises(OutputExistsError) as caught:
        embed_all(source, disk / "out", **changed)
    assert message in str(caught.value)
    assert str(caught.value).endswith("pass --overwrite to start again, or choose another --out")
    assert tree(disk / "out") == before
    embed_all(source, disk / "out", overwrite=True, **changed)
    embed_all(source, disk / "anew", **changed)
    assert tree(disk / "out") == tree(disk / "anew")


def test_another_batch_size_resumes(disk: Path) -> None:
    """Batch size changes last bits only, and a run that was out of memory must be able to lower it."""
    with pytest.raises(RuntimeError):
        embed_all(MadeUp(14), disk / "out", engine=embedder(breaks_after(3)))
    embed_all(MadeUp(14), disk / "out", batch=1)
    embed_all(MadeUp(14), disk / "undisturbed")
    assert tree(disk / "out") == tree(disk / "undisturbed")


def test_removing_the_old_store_may_be_killed_too(
    child: Children, undisturbed: dict[str, bytes], disk: Path
) -> None:
    """It resumes, with --overwrite or without."""
    for change in range(1, 30, 2):
        out = disk / f"{change}"
        embed_all(MadeUp(9), out, dtype="float16")
        child(out, kill_at=change, overwrite=True)
        if not (out / "embeddings.json").is_file():
            with pytest.raises(BundleError, match=r"holds no embeddings\.json|is not complete"):
                load_embeddings(out)
            assert child(out)["error"] == ""
        else:
            assert child(out, overwrite=True)["error"] == ""
        assert tree(out) == undisturbed


def test_a_store_that_is_not_complete_says_how_far_it_is(disk: Path) -> None:
    with pytest.raises(RuntimeError):
        embed_all(MadeUp(14), disk / "out", engine=embedder(breaks_after(4)))
    with pytest.raises(BundleError, match=r"out is not complete: 2 of 4 shards; run the same"):
        load_embeddings(disk / "out")


def test_a_deleted_output_is_one_line(disk: Path) -> None:
    def vanish(pixels: Any) -> dict[str, Any]:
        shutil.rmtree(disk / "out", ignore_errors=True)
        return engine(pixels)

    with pytest.raises(UnavailableError, match=r"out: the directory has disappeared; 0 of 4 shards are kept"):
        embed_all(MadeUp(14), disk / "out", engine=embedder(vanish))
    report, _ = embed_all(MadeUp(14), disk / "out")
    assert report.embedded == 14


def test_files_that_vanish_during_the_run_are_noticed(disk: Path) -> None:
    """Or embeddings.json would list what is not there."""

    def lose(pixels: Any) -> dict[str, Any]:
        (disk / "out/img_emb/img_emb_00000.npy").unlink(missing_ok=True)
        return engine(pixels)

    with pytest.raises(UnavailableError, match="files of shard 0 disappeared"):
        embed_all(MadeUp(40), disk / "out", engine=embedder(lose))
    report, _ = embed_all(MadeUp(40), disk / "out")
    assert report.embedded == 4


def test_a_real_full_disk(tmp_path: Path) -> None:
    """A file system of a megabyte, where the kernel lets us mount one."""
    script = f"""
set -e
mount -t tmpfs -o size=1000k tmpfs {tmp_path}
{sys.executable} - <<'END'
from pathlib import Path
from dinodeploy import UnavailableError, load_embeddings
from tests.support.fake_engine import MadeUp, embed_all
out = Path({str(tmp_path)!r}, "out")
filler = Path({str(tmp_path)!r}, "filler")
filler.write_bytes(bytes(850_000))
try:
    embed_all(MadeUp(4000), out, shard_size=500, batch=100)
except UnavailableError as error:
    assert "the disk is full" in str(error), error
    print(error)
else:
    raise SystemExit("it was not full")
filler.unlink()
report, manifest = embed_all(MadeUp(4000), out, shard_size=500, batch=100)
assert report.kept and manifest.count == 4000
assert len(load_embeddings(out)[0]) == 4000
END
"""
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if "unshare" in ran.stderr or "mount" in ran.stderr:
        pytest.skip(f"this kernel mounts nothing for us: {ran.stderr.splitlines()[0]}")
    assert ran.returncode == 0, ran.stderr
    assert "shards are kept: fix it and run the same command again" in ran.stdout


def breaks_after(batches: int) -> Any:
    """An engine that fails after so many runs."""
    count = 0

    def run(pixels: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count > batches:
            raise RuntimeError("the engine broke")
        return engine(pixels)

    return run


def test_what_a_killed_run_left_of_a_shard_goes(disk: Path) -> None:
    """An image that could not be read then can be now: the shard may have other files this time."""
    with pytest.raises(RuntimeError):
        embed_all(MadeUp(14), disk / "out", engine=embedder(breaks_after(4)))
    record = disk / "out/.embed/shards/00001.json"
    content = json.loads(record.read_text())
    content["files"]["patch_grid/patch_grid_00001.npy"] = {"sha256": "0" * 64, "bytes": 3}
    content["files"]["never/was.there"] = {"sha256": "0" * 64, "bytes": 3}
    record.write_text(json.dumps(content))
    (disk / "out/patch_grid").mkdir()
    (disk / "out/patch_grid/patch_grid_00001.npy").write_bytes(b"old")
    embed_all(MadeUp(14), disk / "out")
    embed_all(MadeUp(14), disk / "undisturbed")
    assert tree(disk / "out") == tree(disk / "undisturbed")


def test_an_edited_store_removes_nothing_outside_of_itself(disk: Path) -> None:
    (disk / "precious").write_text("x")
    embed_all(MadeUp(5), disk / "out")
    manifest = json.loads((disk / "out/embeddings.json").read_text())
    for name in ("../precious", str(disk / "precious")):
        manifest["shards"][0]["files"] = {name: {"sha256": "0" * 64, "bytes": 1}}
        (disk / "out/embeddings.json").write_text(json.dumps(manifest))
        with pytest.raises(OutputExistsError, match="which is outside of it"):
            embed_all(MadeUp(6), disk / "out", overwrite=True)
    assert (disk / "precious").exists()


@pytest.mark.parametrize(
    "name", ["/precious", "../precious", "img_emb/img_emb_00000.npy", "link/img_emb_00001.npy"]
)
def test_an_edited_record_deletes_nothing_but_its_own_shard(disk: Path, name: str) -> None:
    (disk / "precious").write_text("x")
    (disk / "elsewhere").mkdir()
    (disk / "elsewhere/img_emb_00001.npy").touch()
    with pytest.raises(RuntimeError):
        embed_all(MadeUp(14), disk / "out", engine=embedder(breaks_after(4)))
    (disk / "out/link").symlink_to("../elsewhere")
    record = disk / "out/.embed/shards/00001.json"
    content = json.loads(record.read_text())
    listed = str(disk / "precious") if name == "/precious" else name
    content["files"] |= {listed: {"sha256": "0" * 64, "bytes": 3}}
    record.write_text(json.dumps(content))
    embed_all(MadeUp(14), disk / "out")
    assert (disk / "precious").exists()
    assert (disk / "elsewhere/img_emb_00001.npy").exists()
    (disk / "out/link").unlink()
    embed_all(MadeUp(14), disk / "undisturbed")
    assert tree(disk / "out") == tree(disk / "undisturbed")


def test_shards_are_not_written_through_a_link(disk: Path) -> None:
    """A folder of the store that links elsewhere would have files replaced there."""
    (disk / "elsewhere").mkdir()
    (disk / "elsewhere/img_emb_00000.npy").write_text("mine")
    with pytest.raises(RuntimeError):
        embed_all(MadeUp(14), disk / "out", engine=embedder(breaks_after(0)))
    (disk / "out/.embed").mkdir(parents=True, exist_ok=True)
    (disk / "out/img_emb").symlink_to("../elsewhere")
    with pytest.raises((BundleError, OutputExistsError)):
        embed_all(MadeUp(14), disk / "out")
    assert (disk / "elsewhere/img_emb_00000.npy").read_text() == "mine"
