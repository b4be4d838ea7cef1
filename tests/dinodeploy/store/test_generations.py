"""Files of an old generation stay while they are read, and go afterwards."""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dinodeploy import OutputExistsError, TamperedError, load_embeddings
from dinodeploy.store.manifest import read_manifest
from dinodeploy.store.reader import open_embeddings
from dinodeploy.store.update import Follow
from tests.support.fake_engine import tree
from tests.support.followed import Versions, anew, assert_same_rows, follow

START = {f"{number:02d}.png": 1 for number in range(10)}


def files(out: Path) -> set[str]:
    return {name for name in tree(out) if name.endswith(".npy")}


def test_a_reader_keeps_its_generation(tmp_path: Path) -> None:
    out = tmp_path / "out"
    follow(out, Versions(START))
    wanted = load_embeddings(out)[1]
    reader = open_embeddings(out)
    rows = reader.shards()
    first = next(rows)[1].values
    follow(out, Versions(dict.fromkeys(START, 2)))
    follow(out, Versions(dict.fromkeys(START, 3)))
    found = np.concatenate([first, *(column.values for _, column in rows)])
    np.testing.assert_array_equal(found, wanted)
    assert (out / ".embed/old-1.json").is_file()
    assert not (out / ".embed/old-2.json").exists(), "nobody read that one"
    del reader, rows
    gc.collect()
    follow(out, Versions(dict.fromkeys(START, 3)))
    assert not (out / ".embed").exists()
    anew(tmp_path / "anew", Versions(dict.fromkeys(START, 3)))
    assert len(files(out)) == len(files(tmp_path / "anew"))
    assert_same_rows(out, tmp_path / "anew")


def test_without_locks_old_files_stay_until_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinodeploy.store.lock.lock", lambda *_, **__: False)
    monkeypatch.setattr("dinodeploy.store.reader.lock", lambda *_, **__: False)
    monkeypatch.setattr("dinodeploy.store.generations.lock", lambda *_, **__: False)
    out = tmp_path / "out"
    follow(out, Versions(START))
    old = files(out)
    follow(out, Versions(dict.fromkeys(START, 2)))
    assert files(out) > old
    follow(out, Versions(dict.fromkeys(START, 2)))
    assert not files(out) & old


@pytest.mark.parametrize("damage", ["missing", "truncated", "cut off, its time kept", "changed", "listing"])
def test_damaged_shards_are_noticed_and_made_again(tmp_path: Path, damage: str) -> None:
    """A complete store is one whose files are all there as they were written."""
    out = tmp_path / "out"
    follow(out, Versions(START))
    path = out / "img_emb/img_emb_00001.npy"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "cut off, its time kept":
        kept = path.stat().st_mtime_ns
        path.write_bytes(content[:-1])
        os.utime(path, ns=(kept, kept))
    elif damage == "changed":
        path.write_bytes(content[:-1] + b"x")
    else:
        (out / "listing/listing_00001.safetensors").write_bytes(b"x")
    with pytest.raises(OutputExistsError, match="1 shards with missing or changed files since it was made"):
        follow(out, Versions(START), options=Follow())
    source = Versions(START)
    follow(out, source)
    assert source.opened == [f"{number:02d}.png" for number in range(4, 8)]
    anew(tmp_path / "anew", Versions(START))
    assert_same_rows(out, tmp_path / "anew")


def test_a_change_that_hides_its_time_is_found_by_verify(tmp_path: Path) -> None:
    out = tmp_path / "out"
    follow(out, Versions(START))
    path = out / "img_emb/img_emb_00001.npy"
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    follow(out, Versions(START), options=Follow())
    with pytest.raises(TamperedError):
        load_embeddings(out)
    with pytest.raises(OutputExistsError, match="1 shards with missing or changed files"):
        follow(out, Versions(START), options=Follow(verify=True))


def test_a_copied_store_is_complete(tmp_path: Path) -> None:
    """All times are new there, so hashes are checked."""
    follow(tmp_path / "out", Versions(START))
    shutil.copytree(tmp_path / "out", tmp_path / "copy", copy_function=shutil.copy)
    assert not follow(tmp_path / "copy", Versions(START), options=Follow())[2]


def test_a_store_of_an_older_version_is_followed(tmp_path: Path) -> None:
    """It tells nothing of its images: `--update` records it, and copies every row."""
    out = tmp_path / "out"
    start = START | {"03.png": 0}
    follow(out, Versions(start))
    path = out / "embeddings.json"
    manifest = json.loads(path.read_text())
    for name in ("generation", "identity"):
        del manifest[name]
    for shard in manifest["shards"]:
        for name in ("number", "images", "shapes", "generation"):
            del shard[name]
        shard["files"] = {k: v["sha256"] for k, v in shard["files"].items() if not k.startswith("listing/")}
    manifest["version"] = 2
    path.write_text(json.dumps(manifest))
    shutil.rmtree(out / "listing")
    wanted = load_embeddings(out)[1]
    source = Versions(start)
    changes = follow(out, source, options=Follow())[2]
    assert (bool(changes), changes.unrecorded) == (False, True)
    _, updated, _ = follow(out, source)
    assert (source.opened, updated.generation, updated.identity) == ([], 2, "stat")
    np.testing.assert_array_equal(load_embeddings(out)[1], wanted)
    assert read_manifest(out).quarantined == 1
    assert follow(out, source, options=Follow())[2].unrecorded is False
