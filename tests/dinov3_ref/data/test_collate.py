"""Batches: keys, values by hand, and masks of equal number on all ranks (docs/spec.md 4.3, 4.13)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from dinov3_ref.data.collate import collate_data_and_cast, collate_masks, mask_counts
from dinov3_ref.data.masking import MaskingGenerator
from dinov3_ref.data.sample import Sample
from tests.support.images.photographs import pixels

collate = partial(
    collate_data_and_cast,
    mask_ratio_tuple=(0.1, 0.5),
    mask_probability=0.5,
    dtype=torch.float32,
    mask_generator=MaskingGenerator(14, max_num_patches=98),
)


def samples(positions: Sequence[int | None]) -> list[Sample]:
    """Views whose pixels are 10 · sample + crop."""
    made = []
    for row, position in enumerate(positions):
        tag = 10.0 * (row if position is None else position)
        views = {
            "global_crops": [torch.full((3, 4, 4), tag + crop) for crop in range(2)],
            "local_crops": [torch.full((3, 2, 2), tag + crop) for crop in range(3)],
        }
        made.append(Sample(views, (), position))
    return made


def test_mask_counts_of_the_specification() -> None:
    assert mask_counts(8, 196, (0.1, 0.5), 0.5) == [0, 0, 0, 0, 39, 58, 78, 98]
    assert mask_counts(4, 100, (0.1, 0.5), 1.0) == [20, 30, 40, 50]
    assert mask_counts(3, 196, (0.1, 0.5), 0.5) == [0, 0, 98]  # int(1.5) images
    assert mask_counts(4, 196, (0.1, 0.5), 0.0) == [0] * 4


def test_a_batch_has_the_counts_in_some_order() -> None:
    orders = set()
    for first in range(0, 40, 4):
        batch = collate(samples(range(first, first + 4)))
        counts = batch["collated_masks"].sum(1).tolist()
        assert sorted(counts) == [0, 0, 0, 0, 39, 58, 78, 98]
        orders.add(tuple(counts))
    assert len(orders) > 5


def test_crops_are_crop_major() -> None:
    batch = collate(samples([0, 1, 2, 3]))
    assert batch["collated_global_crops"].shape == (8, 3, 4, 4)
    assert batch["collated_global_crops"][:, 0, 0, 0].tolist() == [0, 10, 20, 30, 1, 11, 21, 31]
    assert batch["collated_local_crops"][:, 0, 0, 0].tolist() == [0, 10, 20, 30, 1, 11, 21, 31, 2, 12, 22, 32]
    assert batch["positions"].tolist() == [0, 1, 2, 3]
    assert "collated_gram_teacher_crops" not in batch


def test_gram_crops_and_the_dtype() -> None:
    x = pixels(["chelsea"], 32, 32)[0]
    views = {"global_crops": [x, x], "local_crops": [], "gram_teacher_crops": [x, x]}
    batch = collate([Sample(views, (), 0)], dtype=torch.bfloat16)
    assert batch["collated_gram_teacher_crops"].shape == (2, 3, 32, 32)
    assert batch["collated_global_crops"].dtype is torch.bfloat16
    assert "collated_local_crops" not in batch


def test_mask_indices_and_weights_by_hand() -> None:
    """Two images on a 1x3 grid: {0, 2} and {1} masked. Flat indices 0, 2, 4; weights 1/2, 1/2, 1."""
    batch = collate_masks([np.array([[True, False, True]]), np.array([[False, True, False]])])
    assert batch["collated_masks"].tolist() == [[True, False, True], [False, True, False]]
    assert batch["mask_indices_list"].tolist() == [0, 2, 4]
    assert batch["masks_weight"].tolist() == [0.5, 0.5, 1.0]
    assert batch["upperbound"] == 3
    assert isinstance(batch["upperbound"], int)
    assert batch["n_masked_patches"].tolist() == [3]
    assert batch["n_masked_patches"].dtype is batch["mask_indices_list"].dtype is torch.int64


def test_weights_add_up_to_the_number_of_masked_images() -> None:
    batch = collate(samples(range(4)))
    assert batch["upperbound"] == 39 + 58 + 78 + 98
    torch.testing.assert_close(batch["masks_weight"].sum(), torch.tensor(4.0))


def test_every_rank_masks_the_same_number_of_patches_in_every_step() -> None:
    """The ramp of docs/spec.md 4.13, which the images of a rank share; 8 crops of 196 patches: 274."""
    wanted = sorted(mask_counts(8, 196, (0.1, 0.5), 0.5))
    orders = set()
    for step in range(6):
        for rank in range(3):
            positions = range(12 * step + rank, 12 * step + 12, 3)
            batch = collate(samples(positions), seed=3, rank=rank, world_size=3)
            counts = batch["collated_masks"].sum(-1).tolist()
            orders.add(tuple(counts))
            assert sorted(counts) == wanted
            assert batch["upperbound"] == sum(wanted)
    assert len(orders) > 9, "in another order each time"


def test_masks_of_equal_size_do_not_depend_on_the_number_of_ranks() -> None:
    """Rank r of 2 holds positions r, r + 2, ...: its rows are the one-rank batch's rows, bit for bit."""
    options: dict[str, Any] = {"seed": 3, "mask_ratio_tuple": (0.3, 0.3), "mask_probability": 1.0}
    whole = collate(samples(range(8, 16)), **options)["collated_masks"].unflatten(0, (2, 8))
    for rank in range(2):
        of_rank = samples(range(8 + rank, 16, 2))
        part = collate(of_rank, **options, rank=rank, world_size=2)["collated_masks"]
        assert torch.equal(part.unflatten(0, (2, 4)), whole[:, rank::2])


def test_masks_follow_position_and_seed() -> None:
    def masks(first: int, **options: Any) -> torch.Tensor:
        return collate(samples(range(first, first + 4)), **options)["collated_masks"]

    assert torch.equal(masks(4, seed=1), masks(4, seed=1))
    assert not torch.equal(masks(4, seed=1), masks(4, seed=2))
    assert not torch.equal(masks(4, seed=1), masks(8, seed=1))


def test_samples_without_positions_seed_masks_from_torch() -> None:
    """With any other sampler, masks are seeded by torch's generator."""
    torch.manual_seed(0)
    first, second = (collate(samples([None] * 4))["collated_masks"] for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(collate(samples([None] * 4))["collated_masks"], first)
    assert not torch.equal(first, second)


def test_circular_shift_moves_masks_without_changing_their_size() -> None:
    still, moved = (
        collate(samples(range(4)), random_circular_shift=s)["collated_masks"] for s in (False, True)
    )
    assert torch.equal(still.sum(1), moved.sum(1))
    assert not torch.equal(still, moved)


def test_plain_pairs_of_other_datasets() -> None:
    pairs = [(sample.views, sample.target) for sample in samples([0, 1])]
    assert collate(pairs)["collated_global_crops"].shape[0] == 4


def test_broken_messages_are_kept_and_an_empty_sample_empties_the_batch() -> None:
    good = samples([0, 1])
    batch = collate([good[0]._replace(broken=("a", "b")), good[1]])
    assert (batch["broken"], batch["drawn"]) == (["a", "b"], 2)
    assert collate([good[0], Sample(None, (), 1, ("c",))]) == {"broken": ["c"], "drawn": 2}


def test_pythons_global_generator_is_not_used() -> None:
    state = random.getstate()
    collate(samples(range(4)))
    assert random.getstate() == state
