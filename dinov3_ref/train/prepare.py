"""Apply to the networks what the configuration asks for besides mathematics (SPEC 4.15).

The order matters: recomputed activations, then compilation, then gradients averaged over ranks. The modules
know of none of it, and keep their parameter names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from dinov3_ref.distributed import get_world_size
from dinov3_ref.train.activation_checkpointing import checkpoint_activations
from dinov3_ref.train.networks import TrainingNetworks
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch


def prepare(arch: SSLMetaArch, config: Any, device: torch.device) -> Callable[..., Any]:
    """`arch` changed in place; what to call for a loss, with `forward_loss`'s arguments."""
    if config.train.checkpointing or config.train.checkpointing_full:
        checkpoint_activations(arch.student["backbone"], full=config.train.checkpointing_full)
    if config.train.compile:
        compile_parts(arch)
    if get_world_size() == 1:
        return arch
    return DistributedDataParallel(arch, device_ids=[device] if device.type == "cuda" else None)


def compile_parts(networks: TrainingNetworks, **options: Any) -> None:
    """Compile every block and every head on its own, in place; `options` are torch.compile's."""
    for modules in (networks.student, *networks.all_teachers()):
        for name, module in modules.items():
            for part in module.blocks if name == "backbone" else [module]:  # type: ignore[union-attr]
                part.compile(**options)
