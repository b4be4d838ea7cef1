"""AdamW over parameter groups, per-step learning rates, gradient clipping per sub-module.

Source: docs/spec.md 4.10, 4.11.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.distributed import whole
from dinov3_ref.train.param_groups import Group, fuse_params_groups
from dinov3_ref.train.schedules.rates import Rates


def build_optimizer(config: Any, groups: Iterable[Group]) -> torch.optim.AdamW:
    """AdamW with the betas of `config.optim`; `set_rates` sets its learning rates at every step.

    With `optim.multi_tensor_optim`, groups with equal multipliers are fused.
    """
    groups = fuse_params_groups(groups) if config.optim.multi_tensor_optim else list(groups)
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.optim.adamw_beta1, config.optim.adamw_beta2))


def set_rates(optimizer: torch.optim.Optimizer, rates: Rates) -> None:
    """Set learning rate and weight decay of every group: the iteration's value times its multiplier."""
    for group in optimizer.param_groups:
        lr = rates.last_layer_lr if group["is_last_layer"] else rates.lr
        group["lr"] = lr * group["lr_multiplier"]
        group["weight_decay"] = rates.weight_decay * group["wd_multiplier"]


def clip_gradients(modules: nn.ModuleDict, max_norm: float) -> dict[str, Tensor]:
    """Clip the gradients of each module to an L2 norm of `max_norm` (0: no clipping).

    Returns the norms before clipping, scalars under `<module>_grad_norm`. Each module is clipped separately
    (docs/spec.md 0, fact 15).
    """
    limit = max_norm or float("inf")
    return {
        f"{name}_grad_norm": whole(nn.utils.clip_grad_norm_(module.parameters(), limit))
        for name, module in modules.items()
    }
