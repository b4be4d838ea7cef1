"""The networks of a run together: what they start from, and how teachers follow.

Source: docs/spec.md 4.2, 4.7, 4.8.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from dinov3_ref.configs import check_config
from dinov3_ref.train.networks.build import (
    build_distillation_teacher,
    build_gram_teacher,
    build_student_and_teacher,
    distillation_teacher_config,
)
from dinov3_ref.train.networks.ema import update_ema
from dinov3_ref.train.networks.gram_anchor import GramAnchor
from dinov3_ref.train.networks.load_pretrained import load_backbone, load_teacher

Networks = TypeVar("Networks", bound="TrainingNetworks")

TARGETS = "teacher_targets"  # of a batch: what its teacher said, where another student asked it already
RANDOM = "ignore"  # distillation.checkpoint_path for a teacher with random weights


class TrainingNetworks(nn.Module):
    """Student, EMA teacher, and where they are asked for a distillation teacher and a Gram teacher.

    `model_ema` is the mean of the student. `teacher`, whose targets the student learns, is the same, or under
    distillation a frozen model of another configuration. `gram_teacher` holds an earlier teacher's backbone,
    or is None. Built on the meta device, it wants `to_empty` and `init_weights` before use.
    own_teacher: False where the distillation teacher is another student's, and batches bring its targets.
    """

    def __init__(
        self, config: Any, device: torch.device | str | None = None, *, own_teacher: bool = True
    ) -> None:
        super().__init__()
        check_config(config)
        self.config = config
        self.student, self.model_ema, self.embed_dim = build_student_and_teacher(config, device)
        self.distillation_teacher: nn.ModuleDict | None = None
        if config.distillation.enabled:
            teacher_config = distillation_teacher_config(config)
            if own_teacher:
                self.distillation_teacher = build_distillation_teacher(teacher_config, device)
        self.gram = GramAnchor(config) if config.gram.use_loss else None
        self.gram_teacher: nn.ModuleDict | None = None
        if self.gram is not None and not config.gram.ema_teacher:
            self.gram_teacher = build_gram_teacher(config, device)
        if not any(parameter.is_meta for parameter in self.parameters()):
            self.load_starting_weights()

    @property
    def teacher(self) -> nn.ModuleDict:
        """Backbone and heads whose targets the student learns. Raises ValueError for one without its own."""
        if not self.config.distillation.enabled:
            return self.model_ema
        if self.distillation_teacher is None:
            raise ValueError(f"this student's teacher is elsewhere; its batches have to bring {TARGETS!r}")
        return self.distillation_teacher

    def all_teachers(self) -> list[nn.ModuleDict]:
        """EMA, distillation and Gram teacher, as far as there are any."""
        every = (self.model_ema, self.distillation_teacher, self.gram_teacher)
        return [modules for modules in every if modules is not None]

    def train(self: Networks, mode: bool = True) -> Networks:
        """The student's mode; teachers always stay in evaluation mode."""
        super().train(mode)
        for modules in self.all_teachers():
            modules.eval()
        return self

    # ---- what they start from -----------------------------------------------------------------

    def init_weights(self) -> None:
        """Draw all weights, and read what the configuration names."""
        for modules in [self.student, *self.all_teachers()]:
            for module in modules.values():
                module.init_weights()  # type: ignore[operator]
        self.load_starting_weights()

    def load_starting_weights(self) -> None:
        """Read the configuration's files; let the EMA teacher equal the student.

        Without `gram.ckpt` the Gram teacher equals it too, until `gram.it_load_ema_teacher`.
        """
        if path := self.config.student.pretrained_weights:
            load_backbone(self.student["backbone"], path)
        if path := self.config.student.resume_from_teacher_chkpt:
            load_teacher(self.student, path)
        self.model_ema.load_state_dict(self.student.state_dict())
        if self.gram_teacher is not None:
            if self.config.gram.ckpt:
                load_backbone(self.gram_teacher["backbone"], self.config.gram.ckpt)
            else:
                self._renew_gram_teacher()
        if self.distillation_teacher is not None and self.config.distillation.checkpoint_path != RANDOM:
            load_teacher(self.distillation_teacher, self.config.distillation.checkpoint_path)

    # ---- how teachers follow ------------------------------------------------------------------

    def update_ema(self, m: float) -> None:
        """model_ema <- m · model_ema + (1 - m) · student."""
        update_ema(self.model_ema, self.student, m)

    def before_step(self, iteration: int) -> None:
        """Begin the Gram teacher from the EMA teacher where this iteration is the one for it."""
        if self.gram is not None and self.gram.starts_at(iteration):
            self._renew_gram_teacher()

    def after_step(self, iteration: int, momentum: float) -> None:
        """What follows the optimiser's step: the EMA teacher, then the Gram teacher where it is due."""
        self.update_ema(momentum)
        if self.gram is not None and self.gram.is_renewed_after(iteration):
            self._renew_gram_teacher()

    def _renew_gram_teacher(self) -> None:
        assert self.gram_teacher is not None
        update_ema(self.gram_teacher["backbone"], self.model_ema["backbone"], 0.0)
