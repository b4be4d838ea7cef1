"""Prepare the networks: activation checkpointing, torch.compile, DistributedDataParallel or FSDP2.

Source: docs/spec.md 4.15. The model code knows none of them, and parameter names stay the same.
`compute_precision.sharding_strategy` chooses. With FSDP2 every ViT block, ConvNeXt stage and head is a unit:
parameters are gathered in `param_dtype` and gradients reduced in `reduce_dtype`. A model on the meta device
gets memory and weights after it is sharded, so no rank ever holds it whole (`deferred_init.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from dinov3_ref.distributed import get_world_size
from dinov3_ref.errors import ConfigError
from dinov3_ref.models import ConvNeXt, named_blocks
from dinov3_ref.train.distributed.activation_checkpointing import checkpoint_activations
from dinov3_ref.train.distributed.deferred_init import initialize
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
    """SHARD_GRAD_OP (ZeRO-2): a rank has its part of each parameter, gradient and optimiser state."""

    reshard_after_forward = False  # the student stays gathered between forward and backward

    def __init__(self, arch: Trainable, config: Any, device: torch.device) -> None:
        super().__init__(arch, config, device)
        precision = config.compute_precision
        if precision.param_dtype == "fp16":
            raise ConfigError(
                "compute_precision.param_dtype is fp16, whose loss scaling does not support sharding; wanted "
                "bf16 or fp32, or compute_precision.sharding_strategy=NO_SHARD"
            )
        mesh = shard_mesh(config, device)
        self.units = [*_shard(arch.student, mesh, precision, self.reshard_after_forward)]
        for modules in arch.all_teachers():
            # without a backward pass nothing else releases their parameters
            _shard(modules, mesh, precision, reshard=True)
        if any(parameter.is_meta for parameter in arch.parameters()):
            initialize(arch, device)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        for unit in self.units:
            unit.set_requires_gradient_sync(False)
        yield
        for unit in self.units:
            unit.set_requires_gradient_sync(True)


class FullyShardedModel(ShardedModel):
    """FULL_SHARD (ZeRO-3): parameters are gathered again in the backward pass."""

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


def is_sharding(config: Any) -> bool:
    """Whether parameters will be sharded: then the networks are built on the meta device."""
    return get_world_size() > 1 and config.compute_precision.sharding_strategy != "NO_SHARD"


def shard_mesh(config: Any, device: torch.device) -> DeviceMesh:
    """The ranks that share one copy of the parameters: all, or groups of `shard_ranks` (HSDP).

    With groups the mesh is [replicate, shard]: rank r is in group r // shard_ranks. Raises `ConfigError` for
    a number that does not divide the ranks.
    """
    world, ranks = get_world_size(), config.compute_precision.shard_ranks
    if ranks is None or ranks == world:
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    if world % ranks:
        raise ConfigError(
            f"compute_precision.shard_ranks is {ranks}, which does not divide {world} ranks; wanted the "
            "number of ranks that share one copy of the model, usually those of one machine"
        )
    return init_device_mesh(device.type, (world // ranks, ranks), mesh_dim_names=("replicate", "shard"))


def _shard(modules: nn.ModuleDict, mesh: DeviceMesh, precision: Any, reshard: bool) -> list[FSDPModule]:
    """Apply `fully_shard` to blocks, stages, downsampling layers and modules, in this order; return them.

    Inputs of blocks are not cast to `param_dtype`: RoPE tables are among them, and autocast casts what
    enters a matrix product.
    """
    dtypes: dict[str, Any] = {
        "param_dtype": DTYPES[precision.param_dtype],
        "reduce_dtype": DTYPES[precision.reduce_dtype],
    }
    shard = partial(fully_shard, mesh=mesh, reshard_after_forward=reshard)
    units: list[FSDPModule] = []
    for name, module in modules.items():
        as_given = MixedPrecisionPolicy(**dtypes, cast_forward_inputs=False)
        blocks = [shard(part, mp_policy=as_given) for part in parts_of(name, module)]
        _prefetch(blocks)
        units += [*blocks, shard(module, mp_policy=MixedPrecisionPolicy(**dtypes))]
    return units


def parts_of(name: str, module: nn.Module) -> list[nn.Module]:
    """Parts of a module that are gathered one after the other: blocks, stages and downsampling layers."""
    if isinstance(module, ConvNeXt):
        return [*module.downsample_layers, *module.stages]
    return [*module.blocks] if name == "backbone" else []  # type: ignore[misc]


def _prefetch(blocks: Sequence[FSDPModule]) -> None:
    """While a block computes, gather the parameters of the next one: forward, and backward the one before."""
    for block, following in pairwise(blocks):
        block.set_modules_to_forward_prefetch([following])
        following.set_modules_to_backward_prefetch([block])


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
