"""Apply activation checkpointing, torch.compile and DDP or FSDP to the networks, in this order.

Source: docs/spec.md 4.15. The model code knows none of the three, and parameter names stay the same.
"""

from __future__ import annotations

from typing import Any

import torch

from dinov3_ref.models import named_blocks
from dinov3_ref.train.distributed.activation_checkpointing import checkpoint_activations
from dinov3_ref.train.distributed.data_parallel import LocalModel, parallelize
from dinov3_ref.train.networks.training_networks import TrainingNetworks
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch


def prepare_model(arch: SSLMetaArch, config: Any, device: torch.device) -> LocalModel:
    """Change `arch` in place; return the object that computes its loss. Raises `ConfigError`."""
    if config.train.checkpointing or config.train.checkpointing_full:
        checkpoint_activations(arch.student["backbone"], full=config.train.checkpointing_full)
    if config.train.compile:
        compile_parts(arch)
    return parallelize(arch, config, device)


def compile_parts(networks: TrainingNetworks, **options: Any) -> None:
    """Compile every block and every head separately, in place; `options` go to torch.compile."""
    for modules in (networks.student, *networks.all_teachers()):
        for name, module in modules.items():
            parts = (block for _, block in named_blocks(module)) if name == "backbone" else [module]  # type: ignore[arg-type]
            for part in parts:
                part.compile(**options)
