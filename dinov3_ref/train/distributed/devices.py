"""Select the device and initialise torch.distributed under torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
