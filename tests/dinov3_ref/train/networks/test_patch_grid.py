"""Patch grids of crops, and patch features resized to another grid."""

from __future__ import annotations

import torch

from dinov3_ref.train.networks.patch_grid import grid_of, resize_patches, shrink_crops
from tests.support.images.photographs import pixels


def test_the_grid_of_an_off_square_crop() -> None:
    assert grid_of(torch.zeros(1, 3, 32, 48), patch_size=16) == (2, 3)


def test_area_averages_the_covered_patches() -> None:
    patches = torch.arange(8.0).view(1, 8, 1)  # rows 0 1 2 3 and 4 5 6 7
    assert resize_patches(patches, (2, 4), (1, 2)).flatten().tolist() == [2.5, 4.5]


def test_equal_grids_return_the_input() -> None:
    patches = torch.zeros(1, 6, 4, dtype=torch.bfloat16)
    assert resize_patches(patches, (2, 3), (2, 3)) is patches


def test_crops_are_shrunk_by_the_scale() -> None:
    crops = pixels(["coffee"], 32, 48)
    assert shrink_crops(crops, 1) is crops
    assert shrink_crops(crops, 2).shape == (1, 3, 16, 24)
