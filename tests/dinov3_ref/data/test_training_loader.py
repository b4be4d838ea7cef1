"""The loader of a configuration with the official groups (docs/spec.md 4.1)."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from dinov3_ref.data.loaders import CombinedDataLoader
from dinov3_ref.data.training_loader import build_training_loader, crop_sizes
from dinov3_ref.errors import ConfigError
from tests.support.images.image_files import write_folder


def config(root: Path, **crops: Any) -> Any:
    """The official defaults, with small sizes."""
    made = OmegaConf.create(
        {
            "student": {"patch_size": 16},
            "compute_precision": {"param_dtype": "bf16"},
            "train": {"batch_size_per_gpu": 4, "dataset_path": str(root), "seed": 0, "num_workers": 0},
            "ibot": {
                "mask_sample_probability": 0.5,
                "mask_ratio_min_max": [0.1, 0.5],
                "mask_random_circular_shift": False,
            },
            "crops": {
                "global_crops_scale": [0.32, 1.0],
                "local_crops_number": 8,
                "local_crops_scale": [0.05, 0.32],
                "global_crops_size": 64,
                "local_crops_size": 32,
                "global_local_crop_pairs_ratios": 1.0,
                "gram_teacher_crops_size": None,
                "localcrops_subset_of_globalcrops": False,
                "share_color_jitter": False,
                "teacher_no_color_jitter": False,
                "color_jitter": [0.4, 0.4, 0.2, 0.1],
                "grayscale_probability": 0.2,
                "horizontal_flips": True,
                "gram_teacher_no_distortions": False,
                "rgb_mean": [0.485, 0.456, 0.406],
                "rgb_std": [0.229, 0.224, 0.225],
                "teacher_to_student_resolution_scale": 1.0,
            },
        }
    )
    made.crops.update(crops)
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"))


def test_a_default_batch(root: Path) -> None:
    batch = next(iter(build_training_loader(config(root))))
    assert batch["collated_global_crops"].shape == (8, 3, 64, 64)
    assert "collated_global_crops_teacher" not in batch  # equal to the global crops
    assert batch["collated_local_crops"].shape == (32, 3, 32, 32)
    assert batch["collated_global_crops"].dtype is torch.bfloat16
    assert batch["collated_masks"].shape == (8, 16)
    # int(16 r) for r = .2 .3 .4 .5
    assert sorted(batch["collated_masks"].sum(1).tolist()) == [0, 0, 0, 0, 3, 4, 6, 8]


def test_several_resolutions(root: Path) -> None:
    """As in the high-resolution stage: one size per step, one local size for all, Gram crops."""
    made = build_training_loader(
        config(
            root,
            global_crops_size=[64, 96],
            gram_teacher_crops_size=[96, 128],
            global_local_crop_pairs_ratios=[0.5, 0.5],
        )
    )
    assert isinstance(made, CombinedDataLoader)
    shapes = {
        (
            batch["collated_global_crops"].shape[-1],
            batch["collated_gram_teacher_crops"].shape[-1],
            batch["collated_masks"].shape[1],
        )
        for batch in islice(made, 8)
    }
    assert shapes == {(64, 96, 16), (96, 128, 36)}


def test_masks_have_the_students_grid(root: Path) -> None:
    batch = next(iter(build_training_loader(config(root, teacher_to_student_resolution_scale=2.0))))
    assert batch["collated_global_crops"].shape[-1] == 64
    assert batch["collated_masks"].shape == (8, 4)


def test_options_reach_the_augmentation(root: Path) -> None:
    made: Any = build_training_loader(
        config(
            root,
            localcrops_subset_of_globalcrops=True,
            horizontal_flips=False,
            rgb_mean=[0.1, 0.2, 0.3],
            teacher_no_color_jitter=True,
            color_jitter=[0.1, 0.2, 0.3, 0.5],
            grayscale_probability=0.7,
        )
    )
    augment = made.loader.dataset.source.transform
    assert augment.local_crops_subset_of_global_crops
    assert augment.geometric_augmentation_global.transforms[1].p == 0.0
    assert augment.normalize.transforms[-1].mean == [0.1, 0.2, 0.3]
    jitter, grey = augment.local_transfo.transforms[0].transforms
    assert jitter.transforms[0].hue == (-0.5, 0.5)
    assert grey.p == 0.7
    batch = next(iter(made))  # teacher and student crops differ but have the same geometry
    assert batch["collated_global_crops_teacher"].shape == batch["collated_global_crops"].shape
    assert not torch.equal(batch["collated_global_crops_teacher"], batch["collated_global_crops"])


def test_seeds_and_rectangles_equal_the_official_loader(root: Path) -> None:
    """Seed of resolution i: train.seed + i, from 1. Rectangles: at most half the grid."""
    made: Any = build_training_loader(
        config(root, global_crops_size=[32, 48], global_local_crop_pairs_ratios=[1, 1])
    )
    assert [loader.sampler.seed for loader in made.loaders] == [1, 2]
    collates = [loader.loader.collate_fn.keywords for loader in made.loaders]
    assert [keywords["seed"] for keywords in collates] == [1, 2]
    # 0.5 * 32 // 16 * 32 // 16 = 2; 0.5 * 48 // 16 * 48 // 16 = 3
    assert [keywords["mask_generator"].max_num_patches for keywords in collates] == [2, 3]


def test_sizes_that_do_not_match(root: Path) -> None:
    assert crop_sizes(config(root).crops) == [(64, 32, None)]
    with pytest.raises(ConfigError, match="crops has 2 global, 3 local, 1 gram sizes"):
        crop_sizes(config(root, global_crops_size=[64, 96], local_crops_size=[16, 32, 48]).crops)
    with pytest.raises(ConfigError, match="crops of 70 px do not divide into patches of 16 px"):
        build_training_loader(config(root, global_crops_size=70))
