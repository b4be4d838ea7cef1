"""One tensor or a list of batches, masks for each, and the choice of layers."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.models.list_forward import check_masks, chosen_indices
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_config


def test_a_list_gives_what_its_entries_give() -> None:
    model = build_model(random_checkpoint(tiny_config(depth=1)))
    batches = [pixels(["coffee"], 48, 64), pixels(["china"], 32, 32)]
    with torch.no_grad():
        for got, batch in zip(model(batches), batches, strict=True):
            assert torch.equal(got, model(batch))
        features = model(batches, is_training=True)
        assert torch.equal(features[1]["x_norm_clstoken"], model(batches[1]))


def test_one_mask_per_batch() -> None:
    check_masks([torch.zeros(1)], [None])
    with pytest.raises(ValueError, match="1 inputs with 2 masks; wanted one each"):
        check_masks([torch.zeros(1)], [None, None])


def test_chosen_indices_by_hand() -> None:
    assert chosen_indices(2, 5, "blocks") == [3, 4]
    assert chosen_indices([3, 0, 3], 5, "blocks") == [0, 3]
    for wrong in (0, 6, [5], [-1], []):
        with pytest.raises(ValueError, match=r"asks for blocks outside 0\.\.4; the model has 5"):
            chosen_indices(wrong, 5, "blocks")
