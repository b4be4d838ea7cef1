"""Mixed precision: autocast and loss scaling (docs/spec.md 4.1, "compute_precision")."""

from __future__ import annotations

from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(config: Any, device: torch.device | str) -> torch.autocast:
    """Forward-pass context: weights stay fp32, products run in `compute_precision.param_dtype`."""
    dtype = DTYPES[config.compute_precision.param_dtype]
    kind = torch.device(device).type
    return torch.autocast(
        kind, dtype=None if dtype == torch.float32 else dtype, enabled=dtype != torch.float32
    )


def grad_scaler(config: Any, device: torch.device | str) -> torch.amp.GradScaler:
    """Scales the loss under fp16, whose range is too small for gradients; otherwise does nothing."""
    return torch.amp.GradScaler(
        torch.device(device).type, enabled=config.compute_precision.param_dtype == "fp16"
    )
