"""Select the device, initialise torch.distributed under torchrun, choose the precision (docs/spec.md 4.1)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist


@contextmanager
def launched_device() -> Iterator[torch.device]:
    """The GPU of this rank, or the CPU. Under torchrun a process group exists inside the context."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    launched = "RANK" in os.environ and not dist.is_initialized()
    if launched:  # gloo for tensors on the CPU (evaluations)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        if launched:
            dist.destroy_process_group()


@contextmanager
def training_device() -> Iterator[torch.device]:
    """`launched_device`; fp32 matrix products may use TF32 on GPUs, as in the published code."""
    with launched_device() as device:
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        yield device


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(config: Any, device: torch.device | str) -> torch.autocast:
    """Forward-pass context: weights stay fp32, products run in `compute_precision.param_dtype`."""
    dtype = DTYPES[config.compute_precision.param_dtype]
    low = dtype != torch.float32
    return torch.autocast(torch.device(device).type, dtype=dtype if low else None, enabled=low)


def grad_scaler(config: Any, device: torch.device | str) -> torch.amp.GradScaler:
    """Scales the loss under fp16, whose range is too small for gradients; otherwise does nothing."""
    is_fp16 = config.compute_precision.param_dtype == "fp16"
    return torch.amp.GradScaler(torch.device(device).type, enabled=is_fp16)
