"""All networks of a training run: initial weights, and how the teachers follow the student.

Source: docs/spec.md 4.2, 4.7, 4.8, 4.16.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import load_checkpoint
from dinov3_ref.checkpoints.files import read_checkpoint
from dinov3_ref.checkpoints.tensor_shapes import check_keys, check_values
from dinov3_ref.configs import check_config
from dinov3_ref.distributed import copy_whole
from dinov3_ref.errors import CheckpointError
from dinov3_ref.loss.gram_loss import GramLoss
from dinov3_ref.train.networks.build import (
    build_distillation_teacher,
    build_gram_teacher,
    build_student_and_teacher,
    distillation_teacher_config,
)
from dinov3_ref.train.networks.patch_grid import Grid, resize_patches
from dinov3_ref.train.networks.trainable import Trainable


class GramAnchor:
    """Gram anchoring: the rules of the `gram` group (docs/spec.md 4.7).

    Shapes: C global crops of the batch, P patches of a student crop, N of a Gram crop, D embed_dim.
    """

    def __init__(self, config: Any) -> None:
        self.rules = config.gram
        self.loss = GramLoss(
            apply_norm=self.rules.normalized,
            img_level=self.rules.img_level,
            remove_neg=self.rules.remove_neg,
            remove_only_teacher_neg=self.rules.remove_only_teacher_neg,
        )

    def resize(self, patches_CND: Tensor, grid: Grid, student_grid: Grid) -> Tensor:
        """Resize patch features of Gram crops [C,N,D] to the student's grid: [C,P,D]."""
        method, smooth = self.rules.global_teacher_resize_method, self.rules.global_teacher_resize_antialias
        return resize_patches(patches_CND, grid, student_grid, method, antialias=smooth)

    def losses(self, student_CPD: Tensor, target_CPD: Tensor, masks_CP: Tensor) -> dict[str, Tensor]:
        """`gram_loss` of the patches chosen by `tokens_used`; with `compute_stats` also statistics.

        Student and target [C,P,D], masks [C,P] -> scalars.
        """
        chosen = {"masked": masks_CP, "unmasked": ~masks_CP}.get(self.rules.tokens_used)
        result = {"gram_loss": self._loss_of(student_CPD, target_CPD, chosen)}
        if self.rules.compute_stats:
            with torch.no_grad():
                for name, tokens in (("masked", masks_CP), ("unmasked", ~masks_CP)):
                    result[f"stats_only/{name}_gram_loss"] = self._loss_of(student_CPD, target_CPD, tokens)
        return result

    def _loss_of(self, student_CPD: Tensor, target_CPD: Tensor, tokens_CP: Tensor | None) -> Tensor:
        if tokens_CP is None:
            return self.loss(student_CPD, target_CPD)
        if not tokens_CP.any():
            return student_CPD.sum() * 0.0  # no such patch in this batch: a loss of 0 that keeps the graph
        return self.loss(student_CPD[tokens_CP], target_CPD[tokens_CP], img_level=False)

    def starts_at(self, iteration: int) -> bool:
        """Whether the Gram teacher is copied from the EMA teacher before this iteration."""
        return not self.rules.ema_teacher and iteration == self.rules.it_load_ema_teacher

    def is_refreshed_after(self, iteration: int) -> bool:
        """Whether the Gram teacher is copied from the EMA teacher after this iteration.

        The number of earlier refreshes is computed from the iteration, so no state has to be saved.
        """
        rules, done = self.rules, iteration + 1
        off = rules.ema_teacher or not rules.rep_update
        if off or done < rules.it_first_update or done % rules.update_frequency:
            return False
        first = max(rules.it_first_update, 1)
        earlier = iteration // rules.update_frequency - (first - 1) // rules.update_frequency
        return rules.max_updates is None or earlier < rules.max_updates


def load_backbone(backbone: nn.Module, path: str | Path) -> None:
    """Copy the backbone of a checkpoint file in any layout into `backbone`; all tensors must match.

    Released files have no heads (facebookresearch/dinov3 #23, #207). Raises `CheckpointError`.
    """
    _copy_into(backbone, load_checkpoint(path).state, str(path))


def load_teacher(modules: nn.ModuleDict, path: str | Path) -> None:
    """Copy a `teacher.pth` ({"teacher": backbone and heads}) into `modules`; all tensors must match.

    Raises `KeyMismatch` for a file without heads, `CheckpointError` for other files.
    """
    teacher = read_checkpoint(Path(path)).tree.get("teacher")
    if not isinstance(teacher, Mapping):
        raise CheckpointError(
            f"{path} has no entry 'teacher'; wanted the teacher.pth of a training run, with heads "
            "(for a backbone without heads use student.pretrained_weights)"
        )
    tensors = {key: value for key, value in teacher.items() if isinstance(value, Tensor)}
    _copy_into(modules, tensors, str(path))


@torch.no_grad()
def _copy_into(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    own = module.state_dict()
    check_keys(tensors, {key: tuple(value.shape) for key, value in own.items()}, name)
    check_values(tensors, name)
    for key, value in own.items():
        copy_whole(value, tensors[key])


@torch.no_grad()
def update_ema(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """target <- momentum · target + (1 - momentum) · source, for parameters matched by name.

    Momentum 0 copies. Buffers (RoPE periods, bias masks) are constants and do not change.
    """
    sources = dict(source.named_parameters())
    names, parameters = zip(*target.named_parameters(), strict=True)
    torch._foreach_mul_(parameters, momentum)
    torch._foreach_add_(parameters, [sources[name] for name in names], alpha=1 - momentum)


Networks = TypeVar("Networks", bound="TrainingNetworks")

TARGETS = "teacher_targets"  # batch entry: targets that another student's run computed already
LOAD_NOTHING = "ignore"  # official value of gram.ckpt and distillation.checkpoint_path: load nothing


class TrainingNetworks(Trainable):
    """Student, EMA teacher and, if configured, distillation teacher and Gram teacher.

    `model_ema` is the moving average of the student. `teacher` gives the student's targets: it is `model_ema`
    or, with distillation, a frozen model. `gram_teacher` is the backbone of an earlier teacher, or None.
    After construction on the meta device, call `to_empty` and `init_weights` before use.
    own_teacher: False if another run holds the distillation teacher and the batches contain its targets.
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
            self.load_pretrained()

    @property
    def teacher(self) -> nn.ModuleDict:
        """Backbone and heads that give the targets. Raises ValueError if another run holds them."""
        if not self.config.distillation.enabled:
            return self.model_ema
        if self.distillation_teacher is None:
            raise ValueError(f"this student has no teacher of its own; its batches must contain {TARGETS!r}")
        return self.distillation_teacher

    def all_teachers(self) -> list[nn.ModuleDict]:
        """EMA, distillation and Gram teacher, those that exist."""
        every = (self.model_ema, self.distillation_teacher, self.gram_teacher)
        return [modules for modules in every if modules is not None]

    def is_stored(self, name: str) -> bool:
        return not name.startswith("distillation_teacher.")

    def train(self: Networks, mode: bool = True) -> Networks:
        """Set the student's mode; teachers always stay in evaluation mode."""
        super().train(mode)
        for modules in self.all_teachers():
            modules.eval()
        return self

    # ---- initial weights ----------------------------------------------------------------------

    def init_weights(self) -> None:
        """Draw random weights, then load the files that the configuration names."""
        for modules in [self.student, *self.all_teachers()]:
            for module in modules.values():
                module.init_weights()  # type: ignore[operator]
        self.load_pretrained()

    def load_pretrained(self) -> None:
        """Load the files that the configuration names and copy the student to the EMA teacher.

        Without `gram.ckpt`, or with "ignore", the Gram teacher is a copy too, until
        `gram.it_load_ema_teacher`.
        """
        if path := self.config.student.pretrained_weights:
            load_backbone(self.student["backbone"], path)
        if path := self.config.student.resume_from_teacher_chkpt:
            load_teacher(self.student, path)
        self.model_ema.load_state_dict(self.student.state_dict())
        self.load_gram_teacher()
        path = self.config.distillation.checkpoint_path
        if self.distillation_teacher is not None and path != LOAD_NOTHING:
            load_teacher(self.distillation_teacher, path)

    def load_gram_teacher(self) -> None:
        """Load `gram.ckpt` into the Gram teacher, if there is one, or copy the EMA teacher to it."""
        if self.gram_teacher is None:
            return
        if self.config.gram.ckpt and self.config.gram.ckpt != LOAD_NOTHING:
            load_backbone(self.gram_teacher["backbone"], self.config.gram.ckpt)
        else:
            self._refresh_gram_teacher()

    # ---- teacher updates ----------------------------------------------------------------------

    def update_ema(self, m: float) -> None:
        """model_ema <- m · model_ema + (1 - m) · student."""
        update_ema(self.model_ema, self.student, m)

    def before_step(self, iteration: int) -> None:
        """Copy the EMA teacher to the Gram teacher if `gram.it_load_ema_teacher` is this iteration."""
        if self.gram is not None and self.gram.starts_at(iteration):
            self._refresh_gram_teacher()

    def after_step(self, iteration: int, momentum: float) -> None:
        """Update the EMA teacher and, if due, the Gram teacher. Call after the optimiser step."""
        self.update_ema(momentum)
        if self.gram is not None and self.gram.is_refreshed_after(iteration):
            self._refresh_gram_teacher()

    def _refresh_gram_teacher(self) -> None:
        assert self.gram_teacher is not None
        update_ema(self.gram_teacher["backbone"], self.model_ema["backbone"], 0.0)
