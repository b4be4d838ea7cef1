"""Apply to the networks what the configuration asks for besides mathematics (docs/spec.md 4.15).

The order matters: recomputed activations, then compilation, then the ranks. The modules know of none of it,
and keep their parameter names.
"""

from __future__ import annotations

from typing import Any

import torch

from dinov3_ref.models import named_blocks
from dinov3_ref.train.distributed.activation_checkpointing import checkpoint_activations
from dinov3_ref.train.distributed.parallel import Ranks, join_ranks
from dinov3_ref.train.networks.training_networks import TrainingNetworks
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch


def prepare(arch: SSLMetaArch, config: Any, device: torch.device) -> Ranks:
    """`arch` changed in place; what computes its loss on this rank. Raises `ConfigError`."""
    if config.train.checkpointing or config.train.checkpointing_full:
        checkpoint_activations(arch.student["backbone"], full=config.train.checkpointing_full)
    if config.train.compile:
        compile_parts(arch)
    return join_ranks(arch, config, device)


def compile_parts(networks: TrainingNetworks, **options: Any) -> None:
    """Compile every block and every head on its own, in place; `options` are torch.compile's."""
    for modules in (networks.student, *networks.all_teachers()):
        for name, module in modules.items():
            parts = (block for _, block in named_blocks(module)) if name == "backbone" else [module]  # type: ignore[arg-type]
            for part in parts:
                part.compile(**options)
