"""Heads of the tasks: the same for the same seed, and as the targets say."""

from __future__ import annotations

from typing import Any

import torch

from dinov3_ref.adapt.options import FineTuneOptions
from dinov3_ref.adapt.set_up import Facts, set_up, with_thresholds
from dinov3_ref.checkpoints import random_checkpoint
from dinov3_ref.heads import LinearRegressor, MultiLabelClassifier
from tests.support.tiny_models import tiny_config

CHECKPOINT = random_checkpoint(tiny_config(depth=2, embed_dim=32, num_heads=1))


def made(task: str, facts: Facts, **changes: Any) -> Any:
    options = FineTuneOptions(task, 32, 32, lora=2, **changes)
    return set_up(CHECKPOINT, ("a", "b"), options, facts)


def test_the_seed_decides_the_weights_and_leaves_the_generator() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, other, third = (made("classify", Facts((3, 1)), seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one.linear.weight, other.linear.weight)
    assert not torch.equal(one.linear.weight, third.linear.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_classes_are_for_balanced_training() -> None:
    assert made("classify", Facts((3, 1)))[1].weights.tolist() == [0.5, 1.5]
    assert made("classify", Facts((3, 1)), balanced=False)[1].weights is None
    assert made("multilabel", Facts((3, 1), total=4))[1].weights.allclose(torch.tensor([1 / 3, 3.0]))


def test_a_regressor_starts_at_the_mean() -> None:
    head, objective = made("regress", Facts(mean=(2.0, -1.0), std=(0.5, 0.0)))
    assert isinstance(head, LinearRegressor)
    assert torch.allclose(head(torch.zeros(1, 32), torch.zeros(1, 2, 2, 32))[0], torch.tensor([[2.0, -1.0]]))
    assert objective.std.min() > 0  # a constant target divides by nothing


def test_thresholds_are_stored_with_the_head() -> None:
    head, _ = made("multilabel", Facts((3, 1), total=4))
    assert isinstance(head, MultiLabelClassifier)
    moved = with_thresholds(head, (0.25, 0.75))
    assert moved.settings == {"multi_label": True, "thresholds": [0.25, 0.75]}
    assert torch.equal(moved.linear.weight, head.linear.weight)
    assert moved.classes == head.classes
