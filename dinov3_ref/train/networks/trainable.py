"""`Trainable`: networks with a loss, as the training step and the loop use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dinov3_ref.train.param_groups import Group


class Trainable(nn.Module):
    """`student` holds the modules whose gradients are clipped, each for itself."""

    student: nn.ModuleDict
    draws: Mapping[str, Tensor]  # of a model on the meta device: see `distributed/deferred_init.py`

    def __init__(self) -> None:
        super().__init__()
        self.draws = {}

    def init_weights(self) -> None:
        """Set every parameter and buffer, after `to_empty` of a model that was built on the meta device."""
        raise NotImplementedError

    def forward_loss(
        self, data: Any, *, teacher_temp: float, iteration: int = 0
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss of a batch (a scalar with gradient) and metrics to log."""
        raise NotImplementedError

    def get_params_groups(self) -> list[Group]:
        """Parameter groups for the optimiser."""
        raise NotImplementedError

    def all_teachers(self) -> list[nn.ModuleDict]:
        """Frozen modules that are sharded and compiled like the student."""
        return []

    def is_stored(self, name: str) -> bool:
        """Whether a checkpoint holds the tensor `name`; others are frozen, with files of their own."""
        return True

    def load_gram_teacher(self) -> None:
        """Called after a checkpoint without a Gram teacher was loaded."""

    def before_step(self, iteration: int) -> None:
        """Called before the gradients of an iteration are computed."""

    def after_step(self, iteration: int, momentum: float) -> None:
        """Called after the optimiser step."""
