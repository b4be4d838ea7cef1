"""What the training step needs of networks: a loss and parameter groups; the rest has defaults."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.train.networks.trainable import Trainable
from dinov3_ref.train.networks.training_networks import TrainingNetworks


def test_a_subclass_must_have_a_loss_and_groups() -> None:
    networks = Trainable()
    networks.before_step(0)
    networks.after_step(0, 0.9)
    networks.load_gram_teacher()
    assert networks.all_teachers() == []
    with pytest.raises(NotImplementedError):
        networks.forward_loss({"images": torch.zeros(1)}, teacher_temp=0.07)
    with pytest.raises(NotImplementedError):
        networks.get_params_groups()
    assert issubclass(TrainingNetworks, Trainable)
