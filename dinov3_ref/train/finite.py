"""What happens when a loss is not a number (docs/spec.md 4.11)."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3_ref.distributed import all_reduce_max
from dinov3_ref.errors import TrainingDiverged


class FiniteGuard:
    """Says of each step whether it may be taken; gives up after `patience` bad ones in a row and one more.

    A step whose loss or gradients are NaN or infinite on any rank is skipped on all of them: the published
    loop takes it, which spoils the weights for good.
    """

    def __init__(self, patience: int = 2) -> None:
        self.patience = patience
        self.in_a_row = 0

    def allows(self, loss: Tensor, gradient_norms: dict[str, Tensor] | None = None) -> bool:
        """Raises `TrainingDiverged` past the patience."""
        values = torch.stack([loss.detach().float(), *(n.float() for n in (gradient_norms or {}).values())])
        bad = bool(all_reduce_max((~values.isfinite()).any().float()))
        self.in_a_row = self.in_a_row + 1 if bad else 0
        if self.in_a_row > self.patience:
            raise TrainingDiverged(
                f"the loss or a gradient was not finite {self.in_a_row} steps in a row (loss {loss.item()}); "
                "lower optim.lr, lengthen its warm-up or train with compute_precision.param_dtype=bf16"
            )
        return not bad
