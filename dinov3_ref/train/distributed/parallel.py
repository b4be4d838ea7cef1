"""Several ranks train one model: replicas whose gradients are averaged, or shards (docs/spec.md 4.15).

`compute_precision.sharding_strategy` names the way. Sharded, every block (of a ConvNeXt every stage) and head
is a unit of its own, with parameters gathered in `param_dtype` and gradients reduced in `reduce_dtype`;
weights are made whole on every rank first, so a model must fit a device once without its optimiser.
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
from dinov3_ref.models import ConvNeXt
from dinov3_ref.train.distributed.precision import DTYPES
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch


class Ranks:
    """One process: the architecture as it is."""

    def __init__(self, arch: SSLMetaArch, config: Any, device: torch.device) -> None:
        self.arch = arch

    def loss(self, *inputs: Any, **named: Any) -> Any:
        """`SSLMetaArch.forward_loss`; going backward from it leaves the mean gradient of all ranks."""
        return self.arch.forward_loss(*inputs, **named)

    @contextmanager
    def gradients_stay_local(self) -> Iterator[None]:
        """While batches are accumulated, all but the last need no exchange."""
        yield


class Replicas(Ranks):
    """DistributedDataParallel: every rank has the whole model."""

    def __init__(self, arch: SSLMetaArch, config: Any, device: torch.device) -> None:
        super().__init__(arch, config, device)
        self.replica = DistributedDataParallel(arch, device_ids=[device] if device.type == "cuda" else None)

    def loss(self, *inputs: Any, **named: Any) -> Any:
        return self.replica(*inputs, **named)

    @contextmanager
    def gradients_stay_local(self) -> Iterator[None]:
        with self.replica.no_sync():
            yield


class Shards(Ranks):
    """FSDP2: every rank has its part of each parameter, gradient and optimiser state."""

    reshard_after_forward = False  # ZeRO-2: between forward and backward the student stays gathered

    def __init__(self, arch: SSLMetaArch, config: Any, device: torch.device) -> None:
        super().__init__(arch, config, device)
        precision = config.compute_precision
        if precision.param_dtype == "fp16":
            raise ConfigError(
                "compute_precision.param_dtype is fp16, whose loss scaling knows no shards; wanted bf16 or "
                "fp32, or compute_precision.sharding_strategy=NO_SHARD"
            )
        policy = MixedPrecisionPolicy(
            param_dtype=DTYPES[precision.param_dtype], reduce_dtype=DTYPES[precision.reduce_dtype]
        )
        self.units = [*_shard(arch.student, policy, self.reshard_after_forward)]
        for modules in arch.all_teachers():  # they never go backward, which would release their parameters
            _shard(modules, policy, True)

    @contextmanager
    def gradients_stay_local(self) -> Iterator[None]:
        self._exchange(False)
        yield
        self._exchange(True)

    def _exchange(self, yes: bool) -> None:
        for unit in self.units:
            unit.set_requires_gradient_sync(yes)


class FullShards(Shards):
    """ZeRO-3: gathered anew in the backward pass."""

    reshard_after_forward = True


STRATEGIES: dict[str, Callable[[SSLMetaArch, Any, torch.device], Ranks]] = {
    "NO_SHARD": Replicas,
    "SHARD_GRAD_OP": Shards,
    "FULL_SHARD": FullShards,
}


def join_ranks(arch: SSLMetaArch, config: Any, device: torch.device) -> Ranks:
    """`arch`, changed in place, in the run's process group if there is one. Raises `ConfigError`."""
    if get_world_size() == 1:
        return Ranks(arch, config, device)
    return STRATEGIES[config.compute_precision.sharding_strategy](arch, config, device)


def _shard(modules: nn.ModuleDict, policy: MixedPrecisionPolicy, reshard: bool) -> list[FSDPModule]:
    """Inner parts first, then what is around them; the units that own parameters."""
    units: list[nn.Module] = []
    for name, module in modules.items():
        units += [*_parts(module), module] if name == "backbone" else [module]
    return [fully_shard(unit, mp_policy=policy, reshard_after_forward=reshard) for unit in units]


def _parts(backbone: nn.Module) -> list[nn.Module]:
    """A ViT's blocks; a ConvNeXt's stages and what leads to each (docs/spec.md 4.15)."""
    if isinstance(backbone, ConvNeXt):
        return [*backbone.downsample_layers, *backbone.stages]
    return [*backbone.blocks]  # type: ignore[misc]
