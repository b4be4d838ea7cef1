"""Reading a collated batch: required and optional entries."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.train.batch import Batch, mask_indices
from tests.support.training.toy_training import collated

CPU = torch.device("cpu")


def test_three_entries_are_enough() -> None:
    data = collated()
    batch = Batch.from_collated(data, CPU)
    assert batch.size == 4
    assert batch.teacher_crops is batch.global_crops
    assert batch.gram_teacher_crops is None
    assert torch.equal(batch.mask_indices, mask_indices(data["collated_masks"]))
    # weights of a crop's patches sum to 1
    assert batch.masks_weight.sum() == data["collated_masks"].any(-1).sum()


def test_given_indices_and_weights_are_used() -> None:
    given = {"mask_indices_list": torch.tensor([3]), "masks_weight": torch.tensor([0.5])}
    batch = Batch.from_collated(collated() | given, CPU)
    assert batch.mask_indices.tolist() == [3]
    assert batch.masks_weight.tolist() == [0.5]


def test_no_local_crops() -> None:
    data = collated()
    data["collated_local_crops"] = data["collated_local_crops"][:0]
    assert Batch.from_collated(data, CPU).local_crops is None


def test_entries_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="the batch has images; wanted collated_global_crops"):
        Batch.from_collated({"images": torch.zeros(1)}, CPU)
    data = collated()
    with pytest.raises(ValueError, match="8 global crops with 7 masks"):
        Batch.from_collated(data | {"collated_masks": data["collated_masks"][:-1]}, CPU)
