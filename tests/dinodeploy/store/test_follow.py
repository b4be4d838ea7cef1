"""What a run finds at its target and makes of it: finished shards count whatever happened before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinodeploy import BundleError, OutputExistsError, load_embeddings
from dinodeploy.store.update import Follow
from tests.dinodeploy.pipeline.test_resume import breaks_after
from tests.support.fake_engine import embedder, tree
from tests.support.followed import Versions, anew, assert_same_rows, follow

START = {f"{number:02d}.png": 1 for number in range(14)}


def broken(out: Path, source: Versions, batches: int, **options: Any) -> None:
    with pytest.raises(RuntimeError):
        follow(out, source, engine=embedder(breaks_after(batches)), **options)


def test_a_first_run_that_broke_goes_on(tmp_path: Path) -> None:
    broken(tmp_path / "out", Versions(START), 4)
    source = Versions(START)
    follow(tmp_path / "out", source, options=Follow())
    assert len(source.opened) == 6
    anew(tmp_path / "anew", Versions(START))
    assert tree(tmp_path / "out") == tree(tmp_path / "anew")


def test_images_of_a_first_run_that_changed(tmp_path: Path) -> None:
    """Those of finished shards are compared; with --update finished rows are copied."""
    broken(tmp_path / "out", Versions(START), 4)
    now = Versions(START | {"02.png": 2, "99.png": 1})
    with pytest.raises(OutputExistsError, match="begun with 14 images, now 15, 1 changed images"):
        follow(tmp_path / "out", now, options=Follow())
    with pytest.raises(BundleError, match="is not complete"):
        load_embeddings(tmp_path / "out")
    follow(tmp_path / "out", now)
    assert sorted(now.opened) == ["02.png", *(f"{number:02d}.png" for number in range(8, 14)), "99.png"]
    anew(tmp_path / "anew", Versions(START | {"02.png": 2, "99.png": 1}))
    assert_same_rows(tmp_path / "out", tmp_path / "anew")
    assert not (tmp_path / "out/.embed").exists()


def test_an_update_that_broke_is_resumed(tmp_path: Path) -> None:
    for name in ("out", "whole"):
        follow(tmp_path / name, Versions(START))
    now = dict.fromkeys(START, 2)
    follow(tmp_path / "whole", Versions(now))
    before = load_embeddings(tmp_path / "out")[1]
    broken(tmp_path / "out", Versions(now), 4)
    assert (load_embeddings(tmp_path / "out")[1] == before).all(), "the old generation until the last moment"
    with pytest.raises(OutputExistsError, match="14 changed images"):
        follow(tmp_path / "out", Versions(now), options=Follow())
    source = Versions(now)
    follow(tmp_path / "out", source)
    assert len(source.opened) == 6
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_an_update_whose_images_changed_again_keeps_what_it_did(tmp_path: Path) -> None:
    follow(tmp_path / "out", Versions(START))
    now = dict.fromkeys(START, 2)
    broken(tmp_path / "out", Versions(now), 4)
    now |= {"09.png": 3, "00.png": 3}
    broken(tmp_path / "out", Versions(now), 1)
    now |= {"20.png": 3}
    source = Versions(now)
    follow(tmp_path / "out", source)
    assert "01.png" not in source.opened, "made by the first update"
    anew(tmp_path / "anew", Versions(now))
    assert_same_rows(tmp_path / "out", tmp_path / "anew")
    listed = {name for name in tree(tmp_path / "out") if name.endswith(".npy")}
    assert len(listed) == len([n for n in tree(tmp_path / "anew") if n.endswith(".npy")])


def test_images_that_are_as_they_were_end_a_broken_update(tmp_path: Path) -> None:
    follow(tmp_path / "out", Versions(START))
    before = tree(tmp_path / "out")
    broken(tmp_path / "out", Versions(dict.fromkeys(START, 2)), 3)
    follow(tmp_path / "out", Versions(START), options=Follow())
    assert tree(tmp_path / "out") == before
