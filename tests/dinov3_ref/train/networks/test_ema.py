"""EMA: the formula by hand, parameters matched by name."""

from __future__ import annotations

import torch
from torch import nn

from dinov3_ref.train.networks.ema import update_ema


def pair() -> tuple[nn.Module, nn.Module]:
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    teacher.weight.data, student.weight.data = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    student.running_mean = torch.tensor([7.0, 7.0])
    return teacher, student


def test_by_hand() -> None:
    teacher, student = pair()
    update_ema(teacher, student, 0.75)
    torch.testing.assert_close(teacher.weight.data, torch.tensor([1.5, 1.0]))
    assert student.weight.tolist() == [3.0, -2.0]
    assert teacher.running_mean.tolist() == [0, 0]  # a buffer


def test_zero_copies_exactly_and_one_changes_nothing() -> None:
    teacher, student = pair()
    update_ema(teacher, student, 1.0)
    assert teacher.weight.tolist() == [1.0, 2.0]
    update_ema(teacher, student, 0.0)
    assert torch.equal(teacher.weight, student.weight)


def test_parameters_are_matched_by_name() -> None:
    whole = nn.ModuleDict({"b": nn.Linear(1, 1), "a": nn.Linear(1, 1)})
    part = nn.ModuleDict({"a": nn.Linear(1, 1)})
    update_ema(part, whole, 0.0)
    assert torch.equal(part["a"].weight, whole["a"].weight)
