"""Weights of the losses (docs/spec.md 4.3).

total = dino_local · L_local + dino_global · L_global + koleo · L_koleo + ibot · L_ibot + gram · L_gram.
Each DINO loss is a mean over crop pairs and is weighted by its share of all pairs: with 2 global and 8 local
crops, and no global crop compared to itself, 16 of 18 local and 2 of 18 global.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dinov3_ref.configs.default import N_GLOBAL_CROPS
from dinov3_ref.train.schedules.rates import Schedule, ramp


@dataclass(frozen=True)
class LossWeights:
    """Weights of one iteration; `local_schedule` is the scheduled factor inside `dino_local`."""

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
        self._local: Schedule | None = None
        if dino.reweight_dino_local_loss:
            self._local = ramp(dino.local_loss_weight_schedule, total, epoch)
        self._gram: Schedule | None = None
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
