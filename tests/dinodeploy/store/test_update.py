"""A store follows its images: what did not change is copied, and the result equals a store made anew."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from dinodeploy import OutputExistsError, load_embeddings
from dinodeploy.store.formats import FORMATS
from dinodeploy.store.manifest import read_manifest
from dinodeploy.store.update import Follow
from tests.support.fake_engine import tree
from tests.support.followed import BAD, GONE, Versions, anew, assert_same_rows, follow

pytest.importorskip("pyarrow")
START = {f"{number:02d}.png": 1 for number in range(14)} | {"03.png": BAD, "08.png": BAD}


def test_the_same_images_need_nothing(tmp_path: Path) -> None:
    follow(tmp_path / "out", Versions(START))
    before = tree(tmp_path / "out")
    again = Versions(START)
    _, manifest, changes = follow(tmp_path / "out", again)
    assert (manifest.generation, manifest.identity, bool(changes), again.opened) == (1, "stat", False, [])
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (START | {"05.png": 2}, "1 changed images"),
        (START | {"05.png": GONE}, "1 missing images"),
        (START | {"99.png": 1, "98.png": 1}, "2 new images"),
        ({k: v for k, v in START.items() if k != "00.png"}, "1 missing images"),
        ({**START, "05.png": 2, "a.png": 1, "06.png": GONE}, "1 changed, 1 new, 1 missing images"),
        (dict(reversed(START.items())), "images in another order"),
        (START | {"03.png": 5}, "1 changed images"),
    ],
)
def test_changes_are_counted_and_refused(tmp_path: Path, now: dict[str, int], text: str) -> None:
    follow(tmp_path / "out", Versions(START))
    before = tree(tmp_path / "out")
    source = Versions(now)
    with pytest.raises(OutputExistsError, match=f"out: {text} since it was made; pass --update to follow"):
        follow(tmp_path / "out", source, options=Follow())
    assert (tree(tmp_path / "out"), source.opened) == (before, [])
    follow(tmp_path / "out", source)
    anew(tmp_path / "anew", Versions(now))
    assert_same_rows(tmp_path / "out", tmp_path / "anew")
    assert read_manifest(tmp_path / "out").generation == 2
    assert not (tmp_path / "out/.embed").exists()
    follow(tmp_path / "out", Versions(now), options=Follow())


def test_only_new_and_changed_images_are_opened(tmp_path: Path) -> None:
    follow(tmp_path / "out", Versions(START))
    source = Versions(START | {"05.png": 2, "20.png": 1})
    report, manifest, changes = follow(tmp_path / "out", source)
    assert sorted(source.opened) == ["05.png", "20.png"]
    assert (report.embedded, changes.changed, changes.new) == (2, 1, 1)
    numbers = [shard.number for shard in manifest.shards]
    assert numbers == [0, 4, 2, 5], "shards without a change stay"
    assert [shard.generation for shard in manifest.shards] == [1, 2, 1, 2]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_and_dtype(tmp_path: Path, format: str, dtype: str) -> None:
    """Rows are copied bit for bit, grids that differ included, and old files go."""
    if (format, dtype) == ("clip-retrieval", "int8"):
        pytest.skip("its readers know no int8")
    sizes = {"01.png": (48, 16), "06.png": (16, 16), "07.png": (64, 32)}
    options: dict[str, Any] = {"format": format, "dtype": dtype, "normalize": format == "clip-retrieval"}
    follow(tmp_path / "out", Versions(START, sizes), **options)
    now = START | {"01.png": 4, "12.png": GONE, "99.png": 1}
    del now["07.png"]
    follow(tmp_path / "out", Versions(now, sizes), **options)
    anew(tmp_path / "anew", Versions(now, sizes), **options)
    assert_same_rows(tmp_path / "out", tmp_path / "anew")
    listed = {name for shard in read_manifest(tmp_path / "out").shards for name in shard.files}
    assert set(tree(tmp_path / "out")) == listed | {"embeddings.json", "quarantine.jsonl"}


def test_ten_updates_load_as_one_store_made_anew(tmp_path: Path) -> None:
    rng = random.Random(3)
    now = dict(START)
    follow(tmp_path / "out", Versions(now))
    for step in range(10):
        for _ in range(rng.randrange(1, 5)):
            id_ = f"{rng.randrange(30):02d}.png"
            if id_ in now and rng.random() < 0.4:
                del now[id_]
            else:
                now[id_] = rng.choice((BAD, GONE, 10 + step))
        if rng.random() < 0.7:
            now = dict(sorted(now.items()))
        follow(tmp_path / "out", Versions(now))
        anew(tmp_path / f"anew{step}", Versions(now))
        assert_same_rows(tmp_path / "out", tmp_path / f"anew{step}")
    shards = read_manifest(tmp_path / "out").shards
    assert len(shards) <= len(now), "small shards are joined"


def test_rows_of_missing_images_can_be_kept(tmp_path: Path) -> None:
    follow(tmp_path / "out", Versions(START))
    kept_ids, kept = load_embeddings(tmp_path / "out")
    now = START | {"05.png": GONE, "20.png": 1}
    del now["00.png"], now["08.png"]
    keep = Follow(update=True, keep_missing=True)
    follow(tmp_path / "out", Versions(now), options=keep)
    ids, vectors = load_embeddings(tmp_path / "out")
    assert ids == [id_ for id_ in now if now[id_] != BAD] + ["00.png"], "absent images come last"
    for id_ in kept_ids:
        assert (vectors[ids.index(id_)] == kept[kept_ids.index(id_)]).all()
    for options in (keep, Follow()):
        _, manifest, changes = follow(tmp_path / "out", Versions(now), options=options)
        assert (manifest.generation, bool(changes)) == (2, False), "they count no more"
    follow(tmp_path / "out", Versions(now))
    anew(tmp_path / "anew", Versions(now))
    assert_same_rows(tmp_path / "out", tmp_path / "anew")


def test_an_absent_image_that_is_back_takes_its_place(tmp_path: Path) -> None:
    follow(tmp_path / "out", Versions(START))
    keep = Follow(update=True, keep_missing=True)
    follow(tmp_path / "out", Versions({k: v for k, v in START.items() if k > "03"}), options=keep)
    source = Versions(START)
    with pytest.raises(OutputExistsError, match="3 new images"):
        follow(tmp_path / "out", source, options=Follow())
    follow(tmp_path / "out", source, options=keep)
    assert source.opened == [], "its row was kept"
    anew(tmp_path / "anew", Versions(START))
    assert_same_rows(tmp_path / "out", tmp_path / "anew")


def test_quarantined_images_are_tried_again_when_they_change_or_when_asked(tmp_path: Path) -> None:
    follow(tmp_path / "out", Versions(START))
    source = Versions(START | {"03.png": 7})
    report, manifest, _ = follow(tmp_path / "out", source)
    assert (source.opened, report.embedded, manifest.quarantined) == (["03.png"], 1, 1)
    source = Versions(START | {"03.png": 7})
    report, manifest, _ = follow(tmp_path / "out", source, options=Follow(True, retry_quarantined=True))
    assert (source.opened, report.quarantined, manifest.quarantined) == (["08.png"], 1, 1)


def test_content_identifies_an_image(tmp_path: Path) -> None:
    """Another time, the same content: nothing to do. The same size and time, another content: changed."""
    start = dict.fromkeys(START, 1)
    follow(tmp_path / "out", Versions(start), content=True)
    assert read_manifest(tmp_path / "out").identity == "hash"

    class Touched(Versions):
        def stamp(self, index: int) -> Any:
            return super().stamp(index)._replace(mtime_ns=99)

    assert not follow(tmp_path / "out", Touched(start), content=True, options=Follow())[2]
    assert not follow(tmp_path / "out", Touched(start), options=Follow())[2], (
        "hashed before it counts as changed"
    )

    class Sly(Versions):
        def stamp(self, index: int) -> Any:
            return super().stamp(index)._replace(mtime_ns=1)

    sly = Sly(start | {"05.png": 2})
    with pytest.raises(OutputExistsError, match="1 changed images"):
        follow(tmp_path / "out", sly, content=True, options=Follow())
    follow(tmp_path / "out", sly, content=True)
    anew(tmp_path / "anew", Versions(start | {"05.png": 2}))
    assert_same_rows(tmp_path / "out", tmp_path / "anew")


def test_small_updates_do_not_leave_small_shards(tmp_path: Path) -> None:
    now = {"00.png": 1}
    for number in range(1, 13):
        follow(tmp_path / "out", Versions(now))
        now[f"{number:02d}.png"] = 1
    assert [shard.images for shard in read_manifest(tmp_path / "out").shards] == [4, 4, 4]
