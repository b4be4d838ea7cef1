"""Stores of one model become one; nothing is embedded, nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import dinodeploy
from dinodeploy import BundleError, MisuseError, OutputExistsError, load_embeddings
from dinodeploy.store.formats import FORMATS
from dinodeploy.store.manifest import read_manifest
from dinodeploy.store.update import Follow
from tests.support.fake_engine import tree
from tests.support.followed import BAD, Versions, anew, assert_same_rows, follow

pytest.importorskip("pyarrow")
A = {f"a{number}.png": 1 for number in range(6)} | {"a1.png": BAD}
B = {f"b{number}.png": 1 for number in range(7)} | {"b3.png": BAD}
SIZES = {"a2.png": (48, 16), "b6.png": (16, 32)}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_merged_store_is_one_that_was_made_at_once(tmp_path: Path, format: str, dtype: str) -> None:
    if (format, dtype) == ("clip-retrieval", "int8"):
        pytest.skip("its readers know no int8")
    options: dict[str, Any] = {"format": format, "dtype": dtype, "normalize": format == "clip-retrieval"}
    anew(tmp_path / "a", Versions(A, SIZES), **options)
    anew(tmp_path / "b", Versions(B, SIZES), **options)
    report = dinodeploy.merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "c")
    assert (report.embedded, report.quarantined, report.repeated) == (11, 2, 0)
    anew(tmp_path / "anew", Versions(A | B, SIZES), **options)
    assert tree(tmp_path / "c") == tree(tmp_path / "anew")
    source = Versions(A | B | {"c.png": 1}, SIZES)
    follow(tmp_path / "c", source, **options)
    assert source.opened == ["c.png"], "a merged store can be updated"


def test_repeated_images(tmp_path: Path) -> None:
    """Equal rows are one image; a row comes before a quarantine entry; other rows are refused."""
    anew(tmp_path / "a", Versions(A))
    anew(tmp_path / "b", Versions(B | {"a0.png": 1, "a1.png": 1}))
    report = dinodeploy.merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "c")
    assert (report.embedded, report.quarantined, report.repeated) == (12, 1, 2)
    anew(tmp_path / "anew", Versions(A | B | {"a1.png": 1}))
    assert_same_rows(tmp_path / "c", tmp_path / "anew")
    anew(tmp_path / "d", Versions({"a0.png": 2, "a2.png": 2}))
    with pytest.raises(
        MisuseError, match=r"2 ids have different rows in different stores, such as 'a0\.png'"
    ):
        dinodeploy.merge([tmp_path / "a", tmp_path / "d"], out=tmp_path / "e")
    assert not (tmp_path / "e").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fingerprint": {"model": "y"}}, r"b does not fit .*a \(model: x, now y\)"),
        ({"outputs": ("cls",)}, r"outputs: cls,patch, now cls"),
        ({"dtype": "float16"}, r"dtype: float32, now float16"),
        ({"normalize": True}, r"normalize: false, now true"),
    ],
)
def test_stores_of_other_models_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    anew(tmp_path / "a", Versions(A))
    anew(tmp_path / "b", Versions(B), **options)
    with pytest.raises(MisuseError, match=message):
        dinodeploy.merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "c")


def test_formats_and_shard_sizes_may_differ(tmp_path: Path) -> None:
    anew(tmp_path / "a", Versions(A), format="parquet", shard_size=3)
    anew(tmp_path / "b", Versions(B), format="npz", shard_size=5)
    dinodeploy.merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "c")
    anew(tmp_path / "anew", Versions(A | B), format="parquet", shard_size=3)
    assert tree(tmp_path / "c") == tree(tmp_path / "anew")


def test_the_target(tmp_path: Path) -> None:
    """It is not one of the stores, and only a store is replaced, if asked to."""
    anew(tmp_path / "a", Versions(A))
    anew(tmp_path / "b", Versions(B))
    both = [tmp_path / "a", tmp_path / "b"]
    for stores, out in (([tmp_path / "a"], "c"), (both, "a"), ([tmp_path / "a", tmp_path / "a"], "c")):
        with pytest.raises(MisuseError, match="two or more different stores"):
            dinodeploy.merge(stores, out=tmp_path / out)
    anew(tmp_path / "c", Versions({"x.png": 1}))
    with pytest.raises(OutputExistsError, match="holds a store already; pass --overwrite"):
        dinodeploy.merge(both, out=tmp_path / "c")
    dinodeploy.merge(both, out=tmp_path / "c", overwrite=True)
    assert len(load_embeddings(tmp_path / "c")[0]) == 11
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/x.jpg").touch()
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError):
            dinodeploy.merge(both, out=tmp_path / "photos", overwrite=overwrite)
    assert (tmp_path / "photos/x.jpg").exists()


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    anew(tmp_path / "a", Versions(A))
    anew(tmp_path / "b", Versions(B))
    (tmp_path / "b/img_emb/img_emb_00001.npy").unlink()
    with pytest.raises(BundleError, match="b has missing or changed files"):
        dinodeploy.merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "c")
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(BundleError, match=r"holds no embeddings\.json"):
        dinodeploy.merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_absent_images_stay_absent(tmp_path: Path) -> None:
    anew(tmp_path / "a", Versions(A))
    anew(tmp_path / "b", Versions(B))
    keep = Follow(update=True, keep_missing=True)
    follow(tmp_path / "a", Versions({k: v for k, v in A.items() if k != "a0.png"}), options=keep)
    dinodeploy.merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "c")
    now = Versions({k: v for k, v in (A | B).items() if k != "a0.png"})
    assert not follow(tmp_path / "c", now, options=keep)[2].missing
    assert read_manifest(tmp_path / "c").count == 11
