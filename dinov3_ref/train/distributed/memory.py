"""How many bytes the networks of a training take on each rank, computed from a model on the meta device.

Activations are not counted: they depend on batch, crops and checkpointing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from dinov3_ref.train.distributed.data_parallel import parts_of
from dinov3_ref.train.distributed.devices import DTYPES
from dinov3_ref.train.networks.trainable import Trainable

FP32 = 4  # bytes


@dataclass(frozen=True)
class Footprint:
    """Bytes of the rank with the largest parts.

    gathered: what FSDP2 holds in `param_dtype` at the peak, besides the rank's own part. SHARD_GRAD_OP: the
    student and two units of a teacher. FULL_SHARD: two units, the second one prefetched.
    exchanged: the gradients of one unit before they are reduced; with DDP the buckets of all.
    """

    student: int
    teachers: int
    gradients: int
    optimizer: int
    gathered: int
    exchanged: int

    @property
    def total(self) -> int:
        """Sum of all."""
        return sum(asdict(self).values())


def footprint(arch: Trainable, config: Any, world: int) -> Footprint:
    """The bytes of each of `world` ranks under `config.compute_precision`."""
    precision = config.compute_precision
    replicated = world == 1 or precision.sharding_strategy == "NO_SHARD"
    ranks = 1 if replicated else precision.shard_ranks or world
    student = FP32 * _share([arch.student], ranks)
    trained = FP32 * _share([arch.student], ranks, only_trained=True)
    teachers = FP32 * _share(arch.all_teachers(), ranks)
    gathered, exchanged = 0, trained if replicated and world > 1 else 0
    if not replicated:
        low, wide = (DTYPES[precision[key]].itemsize for key in ("param_dtype", "reduce_dtype"))
        own = _units(arch.student)
        others = max((_largest_two(_units(modules)) for modules in arch.all_teachers()), default=0)
        if precision.sharding_strategy == "SHARD_GRAD_OP":
            gathered = low * (sum(own) + others)
        else:
            gathered = low * max(_largest_two(own), others)
        exchanged = (low + wide) * max(own)
    return Footprint(student, teachers, trained, 2 * trained, gathered, exchanged)


def _share(groups: Iterable[nn.Module], ranks: int, *, only_trained: bool = False) -> int:
    """Numbers on the first rank: rows are divided, and it has the larger part."""
    return sum(
        -(-len(parameter) // ranks) * (parameter.numel() // len(parameter))
        for modules in groups
        for parameter in modules.parameters()
        if parameter.requires_grad or not only_trained
    )


def _units(modules: nn.ModuleDict) -> list[int]:
    """Numbers of each unit that is gathered at once."""
    sizes = []
    for name, module in modules.items():
        parts = [sum(p.numel() for p in part.parameters()) for part in parts_of(name, module)]
        sizes += [*parts, sum(p.numel() for p in module.parameters()) - sum(parts)]
    return sizes


def _largest_two(sizes: list[int]) -> int:
    return sum(sorted(sizes)[-2:])
