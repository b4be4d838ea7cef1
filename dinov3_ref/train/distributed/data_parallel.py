"""Prepare the networks: activation checkpointing, torch.compile, DistributedDataParallel or FSDP2.

Source: docs/spec.md 4.15. The model code knows none of them, and parameter names stay the same.
`compute_precision.sharding_strategy` chooses. With FSDP2 every ViT block, ConvNeXt stage and head is a unit:
parameters are gathered in `param_dtype` and gradients reduced in `reduce_dtype`. Every rank builds the whole
model before it is sharded, so the model without its optimiser must fit one device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from dinov3_ref.distributed import get_world_size
from dinov3_ref.errors import ConfigError
from dinov3_ref.models import ConvNeXt, named_blocks
from dinov3_ref.train.distributed.activation_checkpointing import checkpoint_activations
from dinov3_ref.train.distributed.devices import DTYPES
from dinov3_ref.train.networks.trainable import Trainable


class LocalModel:
    """One process: the networks as they are. Base of the other two."""

    def __init__(self, arch: Trainable, config: Any, device: torch.device) -> None:
        self.arch = arch

    def loss(self, *inputs: Any, **named: Any) -> Any:
        """`Trainable.forward_loss`; its backward pass leaves the mean gradient of all ranks."""
        return self.arch.forward_loss(*inputs, **named)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside do not exchange gradients: for all but the last accumulated batch."""
        yield


class ReplicatedModel(LocalModel):
    """DistributedDataParallel: every rank has the whole model."""

    def __init__(self, arch: Trainable, config: Any, device: torch.device) -> None:
        super().__init__(arch, config, device)
        self.replica = DistributedDataParallel(arch, device_ids=[device] if device.type == "cuda" else None)

    def loss(self, *inputs: Any, **named: Any) -> Any:
        return self.replica(*inputs, **named)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        with self.replica.no_sync():
            yield


class ShardedModel(LocalModel):
    """FSDP2, ZeRO-2: every rank has its part of each parameter, gradient and optimiser state."""

    reshard_after_forward = False  # the student stays gathered between forward and backward

    def __init__(self, arch: Trainable, config: Any, device: torch.device) -> None:
        super().__init__(arch, config, device)
        precision = config.compute_precision
        if precision.param_dtype == "fp16":
            raise ConfigError(
                "compute_precision.param_dtype is fp16, whose loss scaling does not support sharding; wanted "
                "bf16 or fp32, or compute_precision.sharding_strategy=NO_SHARD"
            )
        policy = MixedPrecisionPolicy(
            param_dtype=DTYPES[precision.param_dtype], reduce_dtype=DTYPES[precision.reduce_dtype]
        )
        self.units = [*_shard(arch.student, policy, self.reshard_after_forward)]
        for modules in arch.all_teachers():
            _shard(modules, policy, True)  # without a backward pass nothing else releases their parameters

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        for unit in self.units:
            unit.set_requires_gradient_sync(False)
        yield
        for unit in self.units:
            unit.set_requires_gradient_sync(True)


class FullyShardedModel(ShardedModel):
    """FSDP2, ZeRO-3: parameters are gathered again in the backward pass."""

    reshard_after_forward = True


STRATEGIES: dict[str, Callable[[Trainable, Any, torch.device], LocalModel]] = {
    "NO_SHARD": ReplicatedModel,
    "SHARD_GRAD_OP": ShardedModel,
    "FULL_SHARD": FullyShardedModel,
}


def parallelize(arch: Trainable, config: Any, device: torch.device) -> LocalModel:
    """Replicate or shard `arch`, in place, over the process group if there is one. Raises `ConfigError`."""
    if get_world_size() == 1:
        return LocalModel(arch, config, device)
    return STRATEGIES[config.compute_precision.sharding_strategy](arch, config, device)


def _shard(modules: nn.ModuleDict, policy: MixedPrecisionPolicy, reshard: bool) -> list[FSDPModule]:
    """Apply `fully_shard` to blocks, stages, downsampling layers and modules, in this order; return them."""
    units: list[nn.Module] = []
    for name, module in modules.items():
        if isinstance(module, ConvNeXt):
            units += [*module.downsample_layers, *module.stages]
        elif name == "backbone":
            units += [*module.blocks]  # type: ignore[misc]
        units.append(module)
    return [fully_shard(unit, mp_policy=policy, reshard_after_forward=reshard) for unit in units]


def prepare_model(arch: Trainable, config: Any, device: torch.device) -> LocalModel:
    """Change `arch` in place, as `config.train` says; return the object that computes its loss.

    Raises `ConfigError`.
    """
    if config.train.checkpointing or config.train.checkpointing_full:
        checkpoint_activations(arch.student["backbone"], full=config.train.checkpointing_full)
    if config.train.compile:
        compile_parts(arch)
    return parallelize(arch, config, device)


def compile_parts(networks: Trainable, **options: Any) -> None:
    """Compile every block and every head separately, in place; `options` go to torch.compile."""
    for modules in (networks.student, *networks.all_teachers()):
        for name, module in modules.items():
            parts = (block for _, block in named_blocks(module)) if name == "backbone" else [module]
            for part in parts:
                part.compile(**options)
