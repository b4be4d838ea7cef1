"""Learning rates, weight decay, EMA momentum and teacher temperature per iteration (docs/spec.md 4.9).

Built from the `schedules` group (v2) if the configuration has one, else from `optim` and `teacher` (v1). An
epoch has `train.OFFICIAL_EPOCH_LENGTH` iterations.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol

from dinov3_ref.train.schedules.cosine import (
    CosineScheduler,
    Values,
    linear_warmup_cosine_decay,
    scale_learning_rate,
)


@dataclass(frozen=True)
class Rates:
    """Values of one iteration."""

    lr: float
    last_layer_lr: float  # 0 while the prototypes are frozen
    weight_decay: float
    momentum: float
    teacher_temp: float


class Schedule(Protocol):
    def __getitem__(self, iteration: int, /) -> float: ...


@dataclass(frozen=True)
class RateSchedules:
    """One schedule per field of `Rates`, and the length of training in iterations."""

    total_iterations: int
    lr: Schedule
    last_layer_lr: Schedule
    weight_decay: Schedule
    momentum: Schedule
    teacher_temp: Schedule

    def at(self, iteration: int) -> Rates:
        """The values of an iteration. Raises IndexError after the last one."""
        return Rates(**{field.name: float(getattr(self, field.name)[iteration]) for field in fields(Rates)})


def build_rates(config: Any, world_size: int = 1) -> RateSchedules:
    """Schedules for `config` on `world_size` ranks. Raises `ConfigError` if phases exceed the training."""
    per_step = config.train.batch_size_per_gpu * config.train.accumulation_steps * world_size
    return _build_v1(config, per_step) if config.schedules is None else _build_v2(config, per_step)


def _build_v1(config: Any, global_batch_size: int) -> RateSchedules:
    optim, teacher, epoch = config.optim, config.teacher, config.train.OFFICIAL_EPOCH_LENGTH
    total = optim.epochs * epoch
    lr = CosineScheduler(
        scale_learning_rate(optim.lr, optim.scaling_rule, global_batch_size),
        optim.min_lr,  # not scaled by batch size, as published
        total,
        warmup_iters=optim.warmup_epochs * epoch,
        trunc_extra=optim.schedule_trunc_extra,
    )
    warmup = teacher.warmup_teacher_temp_epochs * epoch
    return RateSchedules(
        total_iterations=total,
        lr=lr,
        last_layer_lr=_frozen(lr.schedule, optim.freeze_last_layer_epochs * epoch),
        weight_decay=CosineScheduler(
            optim.weight_decay, optim.weight_decay_end, total, trunc_extra=optim.schedule_trunc_extra
        ),
        momentum=CosineScheduler(
            teacher.momentum_teacher,
            teacher.final_momentum_teacher,
            total,
            trunc_extra=optim.schedule_trunc_extra,
        ),
        teacher_temp=CosineScheduler(
            teacher.teacher_temp,
            teacher.teacher_temp,
            warmup,
            warmup_iters=warmup,
            start_warmup_value=teacher.warmup_teacher_temp,
        ),
    )


def _build_v2(config: Any, global_batch_size: int) -> RateSchedules:
    groups, epoch = config.schedules, config.train.OFFICIAL_EPOCH_LENGTH
    total = config.optim.epochs * epoch
    factor = scale_learning_rate(1.0, config.optim.scaling_rule, global_batch_size)
    lr = ramp(groups.lr, total, epoch, factor)
    return RateSchedules(
        total_iterations=total,
        lr=lr,
        last_layer_lr=_frozen(lr, groups.lr.freeze_last_layer_epochs * epoch),
        weight_decay=ramp(groups.weight_decay, total, epoch),
        momentum=ramp(groups.momentum, total, epoch),
        teacher_temp=ramp(groups.teacher_temp, total, epoch),
    )


def _frozen(lr: Values, iterations: int) -> Values:
    """The same rates, with 0 for the first `iterations`."""
    last_layer_lr = lr.copy()
    last_layer_lr[:iterations] = 0
    return last_layer_lr


def ramp(values: Any, total: int, epoch: int, factor: float = 1.0) -> Values:
    """Values of a `configs.Ramp` for `total` iterations; `factor` scales its peak and end, not its start."""
    cosine = None if values.cosine_epochs is None else values.cosine_epochs * epoch
    return linear_warmup_cosine_decay(
        values.start, values.peak * factor, values.end * factor, values.warmup_epochs * epoch, total, cosine
    )
