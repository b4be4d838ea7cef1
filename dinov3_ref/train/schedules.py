"""Schedules, one value per iteration: learning rate, weight decay, momentum, temperature, weights of losses.

Source: docs/spec.md 4.3, 4.9. Built from the `schedules` group (v2) if the configuration has one, else from
`optim` and `teacher` (v1). An epoch has `train.OFFICIAL_EPOCH_LENGTH` iterations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dinov3_ref.configs.default import N_GLOBAL_CROPS
from dinov3_ref.errors import ConfigError

Values = NDArray[np.float64]


class CosineScheduler:
    """Schedule v1: zeros, a linear warm-up to `base_value`, then a cosine towards `final_value`.

    `schedule[i]` is the value of iteration i. Value i of the n cosine values is
    final + (base - final) / 2 · (1 + cos(π i / n)): it does not reach `final_value`, which holds from
    `total_iters` on. With `trunc_extra` the cosine is computed for (1 + trunc_extra) · n values, cut after n
    and rescaled to end at `final_value`. Raises `ConfigError` if freeze and warm-up exceed `total_iters`.
    """

    def __init__(
        self,
        base_value: float,
        final_value: float,
        total_iters: int,
        warmup_iters: int = 0,
        start_warmup_value: float = 0.0,
        freeze_iters: int = 0,
        trunc_extra: float = 0.0,
    ) -> None:
        cosine_iters = total_iters - warmup_iters - freeze_iters
        if cosine_iters < 0:
            raise ConfigError(
                f"a schedule of {total_iters} iterations has {freeze_iters} frozen and {warmup_iters} "
                "warm-up iterations; shorten those or raise optim.epochs"
            )
        self.final_value = final_value
        self.total_iters = total_iters
        planned = int((1 + trunc_extra) * cosine_iters)
        fall = (1 + np.cos(np.pi * np.arange(cosine_iters) / max(planned, 1))) / 2  # falls from 1
        if trunc_extra > 0 and cosine_iters > 1:
            fall = (fall - fall[-1]) / (1 - fall[-1])
        self.schedule: Values = np.concatenate(
            [
                np.zeros(freeze_iters),
                np.linspace(start_warmup_value, base_value, warmup_iters),
                final_value + (base_value - final_value) * fall,
            ]
        )

    def __getitem__(self, iteration: int) -> float:
        return self.final_value if iteration >= self.total_iters else float(self.schedule[iteration])


def linear_warmup_cosine_decay(
    start: float,
    peak: float,
    end: float,
    warmup_iterations: int,
    total_iterations: int,
    cosine_iterations: int | None = None,
) -> Values:
    """Schedule v2: linear from `start` to `peak` (right after the warm-up), cosine to `end`, constant.

    Returns `total_iterations` values; unlike v1, the last cosine value is `end`. `cosine_iterations` defaults
    to all iterations after the warm-up. Raises `ConfigError` if warm-up and cosine exceed the total.
    """
    left = total_iterations - warmup_iterations
    cosine = left if cosine_iterations is None else cosine_iterations
    if not 0 <= cosine <= left:
        raise ConfigError(
            f"a schedule of {total_iterations} iterations has {warmup_iterations} warm-up and {cosine} "
            "cosine iterations; shorten those or raise optim.epochs"
        )
    return np.concatenate(
        [
            np.linspace(start, peak, warmup_iterations, endpoint=False),
            (peak - end) * (1 + np.cos(np.linspace(0, np.pi, cosine))) / 2 + end,
            np.full(left - cosine, end, dtype=np.float64),
        ]
    )


def scale_learning_rate(lr: float, rule: str, global_batch_size: int) -> float:
    """Learning rate for a global batch size; sqrt_wrt_1024 multiplies by 4 · sqrt(batch / 1024).

    Source: docs/spec.md 0, fact 16.
    """
    factors = {
        "none": 1.0,
        "linear_wrt_256": global_batch_size / 256,
        "sqrt_wrt_1024": 4 * math.sqrt(global_batch_size / 1024),
    }
    if rule not in factors:
        raise ConfigError(f"optim.scaling_rule is {rule!r}; wanted one of {', '.join(factors)}")
    return lr * factors[rule]


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
    total, cut = optim.epochs * epoch, optim.schedule_trunc_extra
    lr = CosineScheduler(
        scale_learning_rate(optim.lr, optim.scaling_rule, global_batch_size),
        optim.min_lr,  # not scaled by batch size, as published
        total,
        warmup_iters=optim.warmup_epochs * epoch,
        trunc_extra=cut,
    )
    warmup = teacher.warmup_teacher_temp_epochs * epoch
    return RateSchedules(
        total_iterations=total,
        lr=lr,
        last_layer_lr=_frozen(lr.schedule, optim.freeze_last_layer_epochs * epoch),
        weight_decay=CosineScheduler(optim.weight_decay, optim.weight_decay_end, total, trunc_extra=cut),
        momentum=CosineScheduler(
            teacher.momentum_teacher, teacher.final_momentum_teacher, total, trunc_extra=cut
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


@dataclass(frozen=True)
class LossWeights:
    """Weights of one iteration; `local_schedule` is the scheduled factor inside `dino_local`.

    total = dino_local · L_local + dino_global · L_global + koleo · L_koleo + ibot · L_ibot + gram · L_gram.
    Each DINO loss is a mean over crop pairs and is weighted by its share of all pairs: with 2 global and 8
    local crops, and no global crop compared to itself, 16 of 18 local and 2 of 18 global.
    """

    dino_local: float
    dino_global: float
    koleo: float
    ibot: float
    gram: float
    local_schedule: float


def crop_pair_shares(n_global: int, n_local: int, ignore_diagonal: bool) -> tuple[float, float]:
    """Shares of the (local, global) student crops in all student-teacher crop pairs; they sum to 1."""
    global_pairs = n_global * (n_global - 1) if ignore_diagonal else n_global**2
    local_pairs = n_global * n_local
    all_pairs = global_pairs + local_pairs
    return local_pairs / all_pairs, global_pairs / all_pairs


class LossWeightSchedule:
    """Loss weights at any iteration. Raises `ConfigError` for schedules longer than training."""

    def __init__(self, config: Any) -> None:
        dino, gram, epoch = config.dino, config.gram, config.train.OFFICIAL_EPOCH_LENGTH
        total = config.optim.epochs * epoch
        self._dino, self._ibot_weight = dino, config.ibot.loss_weight
        self._local = self._gram = None
        if dino.reweight_dino_local_loss:
            self._local = ramp(dino.local_loss_weight_schedule, total, epoch)
        if gram.loss_weight_schedule is not None:
            self._gram = ramp(gram.loss_weight_schedule, total, epoch)
        self._gram_weight = gram.loss_weight if gram.use_loss else 0.0

    def at(self, iteration: int, n_local: int) -> LossWeights:
        """Weights of an iteration with `n_local` local crops per image."""
        dino = self._dino
        local_share, global_share = crop_pair_shares(N_GLOBAL_CROPS, n_local, dino.global_ignore_diagonal)
        local_schedule = 1.0 if self._local is None else float(self._local[iteration])
        return LossWeights(
            dino_local=dino.loss_weight * local_share * local_schedule,
            dino_global=dino.loss_weight * global_share,
            koleo=dino.koleo_loss_weight * N_GLOBAL_CROPS,  # L_koleo is their mean (docs/spec.md 0, fact 12)
            ibot=self._ibot_weight,
            gram=self._gram_weight if self._gram is None else float(self._gram[iteration]),
            local_schedule=local_schedule,
        )
