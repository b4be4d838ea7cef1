"""Images with maps in the published layouts (docs/spec.md 5.4, 5.6)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3_ref.data.datasets import make_dataset
from dinov3_ref.data.datasets.pairs import IGNORED, open_pairs
from dinov3_ref.errors import BrokenImage, DataError
from tests.support.images.dense_layouts import (
    scene,
    slope,
    write_ade20k,
    write_cityscapes,
    write_nyu,
    write_voc2012,
)
from tests.support.images.labelled_images import SCENES, write_scenes


def test_ade20k_ignores_0_and_counts_from_1(tmp_path: Path) -> None:
    pairs = open_pairs(f"ADE20K:split=VAL:root={write_ade20k(tmp_path)}", "segmentation")
    assert (len(pairs), pairs.num_classes) == (6, 150)
    ids = pairs.map(1)
    assert (ids[:4] == IGNORED).all()
    assert (ids[4:] == scene(1)[1][4:]).all()
    pairs.pair_transform = lambda image, values: (image.size, values.shape)
    assert pairs[0] == (((80, 64), (64, 80)), ())


def test_voc2012_takes_the_list_of_the_split(tmp_path: Path) -> None:
    root = write_voc2012(tmp_path)
    pairs = open_pairs(f"VOC2012:root={root}", "segmentation")
    assert [Path(pairs.name(index)).stem for index in range(2)] == ["2007_000002", "2007_000000"]
    assert (len(pairs.classes), pairs.classes[0], pairs.classes[20]) == (21, "background", "tvmonitor")
    assert (pairs.map(0) == scene(2)[1]).all()


def test_cityscapes_maps_raw_ids_to_training_ids(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path)
    pairs = open_pairs(f"Cityscapes:split=VAL:root={root}", "segmentation")
    assert pairs.num_classes == 19
    expected = np.array([0, 10, 13])[scene(0)[1]]  # road, sky, car
    expected[0] = IGNORED
    assert (pairs.map(0) == expected).all()
    for number in range(2):  # training ids are preferred where all images have them
        stem = root / f"gtFine/val/ulm/ulm_{number:06d}_000019_gtFine_labelTrainIds.png"
        Image.fromarray(np.full((64, 80), 5, np.uint8)).save(stem)
    assert (open_pairs(f"Cityscapes:split=VAL:root={root}", "segmentation").map(0) == 5).all()


def test_nyu_reads_its_lists_in_order(tmp_path: Path) -> None:
    root = write_nyu(tmp_path)
    pairs = open_pairs(f"NYU:split=TRAIN:root={root}", "depth")
    assert len(pairs) == 4
    assert pairs.name(0).endswith("bath/rgb_00000.jpg")
    assert (pairs.map(1) == slope(1)).all()
    assert len(open_pairs(f"NYU:split=VAL:root={root}", "depth")) == 2
    images = make_dataset(f"NYU:split=TRAIN:root={root}")  # the images alone, for training a backbone
    assert images[0][0].size == (80, 64)


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    pairs = open_pairs(str(write_scenes(tmp_path / "a", 3)), "segmentation")
    assert (pairs.classes, pairs.num_classes) == (SCENES, 4)
    unnamed = open_pairs(str(write_scenes(tmp_path / "b", 3, names=False)), "segmentation")
    assert (unnamed.num_classes, unnamed.found_classes()) == (0, 4)


def break_size(root: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "annotations/validation/ADE_val_00000001.png")


def break_mode(root: Path) -> None:
    Image.new("RGB", (80, 64)).save(root / "annotations/validation/ADE_val_00000001.png")


@pytest.mark.parametrize(
    ("broken", "words"),
    [(break_size, "has 8x8 pixels, its image 80x64"), (break_mode, "has mode RGB; wanted one channel")],
)
def test_a_broken_map_is_named(broken: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    broken(write_ade20k(tmp_path, 1))
    pairs = open_pairs(f"ADE20K:split=VAL:root={tmp_path}", "segmentation")
    pairs.pair_transform = lambda image, values: values
    with pytest.raises(BrokenImage, match=words):
        pairs[0]


@pytest.mark.parametrize(
    ("text", "task", "words"),
    [
        ("nothing", "depth", "is no dataset for depth; wanted a folder with images/ and depth/"),
        ("NYU:root=x", "segmentation", "is for depth, not for segmentation"),
        ("NYU:root=nothing", "depth", "nyu_train.txt' cannot be read"),
        ("ADE20K:root=nothing", "segmentation", "training' is not a folder"),
        (
            "VOC2012:split=TEST:root=x",
            "segmentation",
            r"VOC2012: with root=FOLDER and split=TRAIN\|VAL",
        ),
    ],
)
def test_bad_strings_are_one_line(text: str, task: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        open_pairs(text, task)
    assert "\n" not in str(error.value)


def test_a_missing_map_is_counted(tmp_path: Path) -> None:
    write_ade20k(tmp_path, 2)
    (tmp_path / "annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(DataError, match=r"has no map .*00000002\.png'; 1 of 2 are missing"):
        open_pairs(f"ADE20K:root={tmp_path}", "segmentation")
