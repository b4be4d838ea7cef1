"""One training step: gradients of one or several batches, clipping, AdamW, teacher update.

Source: docs/spec.md 4.10, 4.11. Random numbers are seeded by (seed, rank, iteration, batch), so a resumed run
draws the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.data.sample import derive_seed
from dinov3_ref.distributed import all_reduce_max, get_rank, whole
from dinov3_ref.errors import TrainingDiverged
from dinov3_ref.train.distributed.data_parallel import prepare_model
from dinov3_ref.train.distributed.devices import autocast, grad_scaler
from dinov3_ref.train.networks.trainable import Trainable
from dinov3_ref.train.param_groups import Group, fuse_params_groups
from dinov3_ref.train.schedules import Rates


class TrainingStep:
    """The step of one run, with its optimiser and loss scale; `arch` is changed in place.

    Raises `ConfigError` for a precision that the sharding does not support.
    """

    def __init__(self, config: Any, arch: Trainable, device: torch.device) -> None:
        self.config, self.arch, self.device = config, arch, device
        self.model = prepare_model(arch, config, device)
        self.optimizer = build_optimizer(config, arch.get_params_groups())
        self.scaler = grad_scaler(config, device)
        self.guard = FiniteGuard()

    def __call__(self, batches: Iterator[dict[str, Any]], iteration: int, rates: Rates) -> dict[str, Tensor]:
        """Do one optimiser step over `accumulation_steps` batches; return mean metrics and gradient norms.

        All values are scalars. Raises `TrainingDiverged` when losses stay NaN.
        """
        self.arch.before_step(iteration)
        set_rates(self.optimizer, rates)
        self.optimizer.zero_grad(set_to_none=True)
        metrics = self._accumulate_gradients(batches, iteration, rates.teacher_temp)
        self.scaler.unscale_(self.optimizer)
        norms = clip_gradients(self.arch.student, self.config.optim.clip_grad)
        # with fp16, infinite gradients mean that the loss scale is too large: the scaler handles them
        if self.guard.allows(metrics["total_loss"], None if self.scaler.is_enabled() else norms):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.arch.after_step(iteration, rates.momentum)
        return metrics | norms

    def _accumulate_gradients(
        self, batches: Iterator[dict[str, Any]], iteration: int, teacher_temp: float
    ) -> dict[str, Tensor]:
        """Add the mean gradient of the step's batches to the student; return their mean metrics (scalars)."""
        count = self.config.train.accumulation_steps
        means: dict[str, Tensor] = {}
        for part in range(count):
            batch = next(batches)
            torch.manual_seed(derive_seed(self.config.train.seed, get_rank(), iteration, part))
            with self.model.no_sync() if part < count - 1 else nullcontext():
                with autocast(self.config, self.device):
                    loss, metrics = self.model.loss(batch, teacher_temp=teacher_temp, iteration=iteration)
                self.scaler.scale(loss / count).backward()
            for name, value in {"total_loss": loss.detach(), **metrics}.items():
                means[name] = means.get(name, 0) + torch.as_tensor(value, device=self.device) / count
        return means


class FiniteGuard:
    """Skips steps with a NaN or infinite loss or gradient; gives up after more than `patience` in a row.

    A step that is bad on one rank is skipped on all ranks. The published loop takes such a step, which ruins
    the weights.
    """

    def __init__(self, patience: int = 2) -> None:
        self.patience = patience
        self.in_a_row = 0

    def allows(self, loss: Tensor, gradient_norms: dict[str, Tensor] | None = None) -> bool:
        """Whether to take the step (loss and norms are scalars). Raises `TrainingDiverged`."""
        values = torch.stack([loss.detach().float(), *(n.float() for n in (gradient_norms or {}).values())])
        bad = bool(all_reduce_max((~values.isfinite()).any().float()))
        self.in_a_row = self.in_a_row + 1 if bad else 0
        if self.in_a_row > self.patience:
            raise TrainingDiverged(
                f"the loss or a gradient was not finite {self.in_a_row} steps in a row (loss {loss.item()}); "
                "lower optim.lr, lengthen its warm-up or train with compute_precision.param_dtype=bf16"
            )
        return not bad


def build_optimizer(config: Any, groups: Iterable[Group]) -> torch.optim.AdamW:
    """AdamW with the betas of `config.optim`; `set_rates` sets its learning rates at every step.

    With `optim.multi_tensor_optim`, groups with equal multipliers are fused. With `optim.fused`, one kernel
    does the whole step; without a value, that is so on GPUs.
    """
    groups = list(groups)
    fused = config.optim.fused
    if fused is None:
        fused = all(group["params"].is_cuda for group in groups)
    groups = fuse_params_groups(groups) if config.optim.multi_tensor_optim else groups
    betas = (config.optim.adamw_beta1, config.optim.adamw_beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=fused)


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
