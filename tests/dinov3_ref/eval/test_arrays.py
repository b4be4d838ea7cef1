"""Embeddings in files: every form, `dinodeploy embed`'s own included, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinov3_ref.errors import DataError
from dinov3_ref.eval.arrays import holds_patches, load_labelled
from tests.support.images.image_files import write_folder
from tests.support.processes.command_line import CommandLine

X = np.arange(12, dtype=np.float64).reshape(4, 3)
PATCHES = np.arange(4 * 2 * 1 * 3, dtype=np.float32).reshape(4, 2, 1, 3)


def test_labels_are_numbers_or_words(tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", features=X, labels=[10, 9, 10, 2])
    np.savez(tmp_path / "w.npz", cls=X, labels=["cat", "ant", "cat", "bee"])
    numbers, words = load_labelled(tmp_path / "n.npz"), load_labelled(tmp_path / "w.npz")
    assert numbers.features.dtype is torch.float32
    assert numbers.features.tolist() == X.tolist()
    assert (numbers.class_names, numbers.labels.tolist()) == (("2", "9", "10"), [2, 1, 2, 0])
    assert (words.class_names, words.labels.tolist()) == (("ant", "bee", "cat"), [2, 0, 2, 1])
    assert not holds_patches(tmp_path / "n.npz")


def test_several_classes_per_image(tmp_path: Path) -> None:
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    np.savez(tmp_path / "n.npz", cls=X, labels=labels)
    np.savez(tmp_path / "w.npz", cls=X, labels=labels.astype(float), class_names=["cat", "dog"])
    numbers, words = load_labelled(tmp_path / "n.npz"), load_labelled(tmp_path / "w.npz")
    assert numbers.labels.dtype is torch.bool
    assert numbers.labels.tolist() == words.labels.tolist() == labels.astype(bool).tolist()
    assert (numbers.class_names, words.class_names) == (("0", "1"), ("cat", "dog"))
    np.savez(tmp_path / "x.npz", cls=X, labels=labels * 2)
    np.savez(tmp_path / "y.npz", cls=X, labels=labels, class_names=["cat"])
    for name, words in (("x", "not all 0 or 1"), ("y", "1 class_names for 2 columns")):
        with pytest.raises(DataError, match=words):
            load_labelled(tmp_path / f"{name}.npz")


def test_labels_from_the_folders_of_paths(tmp_path: Path) -> None:
    ids = ["data/b/x/1.jpg", "data/a/1.jpg", "data/a/2.jpg", "data/b/y.jpg"]
    np.savez(tmp_path / "x.npz", cls=X, ids=ids)
    found = load_labelled(tmp_path / "x.npz")
    assert (found.class_names, found.labels.tolist()) == (("a", "b"), [1, 0, 0, 1])


def test_the_mean_patch_follows_cls(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", cls=X, labels=[0, 1, 0, 1], patch=PATCHES)
    np.savez(tmp_path / "y.npz", cls=X, labels=[0, 1, 0, 1], patch_mean=PATCHES.mean((1, 2)))
    found = load_labelled(tmp_path / "x.npz", with_patches=True)
    assert found.features[0].tolist() == [0, 1, 2, 1.5, 2.5, 3.5]  # ([0 1 2] + [3 4 5]) / 2
    assert torch.equal(load_labelled(tmp_path / "y.npz", with_patches=True).features, found.features)
    assert holds_patches(tmp_path / "x.npz")
    assert holds_patches(tmp_path / "y.npz")


def test_an_array_with_labels_in_another_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "x.labels.npy", [1, 0, 1, 0])
    np.save(tmp_path / "y.npy", X)
    (tmp_path / "y.labels.txt").write_text("b\na\nb\na\n")
    assert load_labelled(tmp_path / "x.npy").labels.tolist() == [1, 0, 1, 0]
    assert load_labelled(tmp_path / "y.npy").class_names == ("a", "b")


@pytest.mark.parametrize("layout", ["npy", "npz"])
def test_a_store_of_dinodeploy_embed(
    layout: str, tiny_bundle: Path, tmp_path: Path, run: CommandLine
) -> None:
    photos = write_folder(tmp_path / "photos")
    ran = run(
        "embed",
        photos,
        "--engine",
        tiny_bundle,
        "--out",
        tmp_path / "e",
        "--format",
        layout,
        "--outputs",
        "cls,patch",
    )
    assert ran.code == 0, ran.err
    found = load_labelled(tmp_path / "e", with_patches=True)
    assert found.features.shape == (6, 256)
    assert found.class_names == ("animate", "still")
    assert found.labels.tolist() == [0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(load_labelled(tmp_path / "e").features, found.features[:, :128])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": [0, 1, 0, 1]}, "holds labels; wanted features or cls"),
        ({"cls": X}, "has no labels; wanted an array `labels`"),
        ({"cls": X, "ids": ["a/1.jpg"] * 4}, "images directly in 'a'; wanted one folder per class"),
        ({"cls": X, "labels": [0, 1]}, r"features \[4, 3\] and labels \[2\]"),
        ({"cls": PATCHES, "labels": [0] * 4}, r"wanted \[N,D\]"),
    ],
)
def test_bad_archives_are_refused(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=words):
        load_labelled(tmp_path / "x.npz")


def test_missing_patches_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", cls=X, labels=[0, 1, 0, 1])
    with pytest.raises(DataError, match="has no patches; embed with --outputs cls,patch"):
        load_labelled(tmp_path / "x.npz", with_patches=True)


@pytest.mark.parametrize(
    "name", ["gone.npz", "gone.npy", "x.csv", "folder", "noise.npz", "noise.npy", "cut.npz", "empty.npy"]
)
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for kind in ("npz", "npy"):
        (tmp_path / f"noise.{kind}").write_bytes(b"noise")
    np.savez(tmp_path / "cut.npz", cls=X)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:100])
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be read as embeddings: .+") as caught:
        load_labelled(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not holds_patches(tmp_path / name)
