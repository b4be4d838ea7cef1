"""Gram anchoring in training: targets, and when the Gram teacher is refreshed (docs/spec.md 4.7).

Shapes: C global crops of the batch, P patches of a student crop, N patches of a Gram crop, D embed_dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dinov3_ref.loss.gram_loss import GramLoss
from dinov3_ref.train.networks.patch_grid import Grid, resize_patches


class GramAnchor:
    """The rules of the `gram` group. The Gram teacher itself is `TrainingNetworks.gram_teacher`."""

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
        rules = self.rules
        return resize_patches(
            patches_CND,
            grid,
            student_grid,
            rules.global_teacher_resize_method,
            antialias=rules.global_teacher_resize_antialias,
        )

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
        if rules.ema_teacher or not rules.rep_update:
            return False
        if done < rules.it_first_update or done % rules.update_frequency:
            return False
        first = max(rules.it_first_update, 1)
        earlier = iteration // rules.update_frequency - (first - 1) // rules.update_frequency
        return rules.max_updates is None or earlier < rules.max_updates
