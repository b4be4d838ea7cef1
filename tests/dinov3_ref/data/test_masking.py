"""Masks: exact counts, rectangles, the official loader's area limit (docs/spec.md 4.13)."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dinov3_ref.data.masking import MaskingGenerator, max_rectangle


@pytest.mark.parametrize("count", [0, 1, 3, 39, 58, 78, 98, 196])
def test_a_mask_has_the_exact_number_of_cells(count: int) -> None:
    generator = MaskingGenerator((14, 14), max_num_patches=max_rectangle(224))
    for seed in range(20):
        mask = generator(count, random.Random(seed))
        assert mask.shape == (14, 14)
        assert mask.dtype == bool
        assert mask.sum() == count


def test_off_square_grids_and_the_default_count() -> None:
    generator = MaskingGenerator((6, 20), num_masking_patches=50)
    assert generator.get_shape() == (6, 20)
    assert generator(rng=random.Random(0)).sum() == 50


def test_masks_are_seeded() -> None:
    generator = MaskingGenerator(14)
    first, again, other = (generator(60, random.Random(seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_the_default_is_pythons_global_generator() -> None:
    generator = MaskingGenerator(14)
    random.seed(5)
    first = generator(60)
    random.seed(5)
    assert (generator(60) == first).all()


def test_masks_are_blocks_and_not_single_cells() -> None:
    """Neighbours of masked cells are masked far more often than with a random choice."""
    generator = MaskingGenerator((14, 14), max_num_patches=98)
    together = []
    for seed in range(50):
        mask = generator(58, random.Random(seed))
        together.append((mask[:, 1:] & mask[:, :-1]).sum() / mask[:, :-1].sum())
    assert np.mean(together) > 0.65  # measured 0.74; a random choice of 58 of 196 gives 0.29


def test_a_rectangle_stays_within_its_bounds() -> None:
    """Area 4..12 and aspect 0.5..2 before rounding: sides are 1 to 5 cells, never the whole grid."""
    generator = MaskingGenerator((8, 10), min_aspect=0.5, max_num_patches=12)
    lying, standing = 0, 0
    for seed in range(200):
        mask = np.zeros((8, 10), dtype=bool)
        added = generator._place_rectangle(mask, 12, random.Random(seed))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        h, w = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert added == mask.sum() == h * w <= 12
        assert 1 <= h <= 5
        assert 1 <= w <= 5
        lying += w > h
        standing += h > w
    assert 60 < lying < 140  # log-uniform aspects: both orientations equally often
    assert 60 < standing < 140


@pytest.mark.parametrize(("size", "limit"), [(224, 98), (256, 128), (336, 210)])
def test_the_official_area_limit(size: int, limit: int) -> None:
    assert max_rectangle(size, 16) == limit


@pytest.mark.parametrize("count", [-1, 197, None])
def test_impossible_counts_are_refused(count: int | None) -> None:
    with pytest.raises(ValueError, match=r"of 196 patches; wanted 0 to all of them"):
        MaskingGenerator(14)(count)
