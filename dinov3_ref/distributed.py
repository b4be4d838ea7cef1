"""Collectives of the default process group. In a single process each returns its input.

Shapes: W ranks, B rows per rank (equal on all ranks unless stated otherwise).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def get_world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Index of this rank; 0 without a process group."""
    return dist.get_rank() if _is_distributed() else 0


@torch.no_grad()
def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over the ranks [...] -> [...]: a new tensor without gradient."""
    return _all_reduce(x, dist.ReduceOp.SUM) if _is_distributed() else x


@torch.no_grad()
def all_reduce_max(x: Tensor) -> Tensor:
    """Maximum over the ranks [...] -> [...]: a new tensor without gradient."""
    return _all_reduce(x, dist.ReduceOp.MAX) if _is_distributed() else x


def _all_reduce(x: Tensor, operation: Any) -> Tensor:
    total = x.clone()
    dist.all_reduce(total, op=operation)
    return total


class _GatherRows(torch.autograd.Function):
    """All-gather with gradient. Every rank uses every row, so a row's gradient is the sum over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(x: Tensor) -> Tensor:
    """[B, ...] of each rank -> [W·B, ...] in rank order on every rank, with gradient."""
    return _GatherRows.apply(x) if _is_distributed() else x


@torch.no_grad()
def gather_shares(x: Tensor) -> Tensor:
    """[B, ...] of each rank, B may differ -> all rows in rank order on every rank, without gradient."""
    if not _is_distributed():
        return x
    counts = gather_rows(torch.tensor([len(x)], device=x.device)).tolist()
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x
    parts = gather_rows(padded).split(max(counts))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


@torch.no_grad()
def copy_whole(target: Tensor, values: Tensor) -> None:
    """Copy `values`, whole on every rank, into `target`; if that is sharded, each rank takes its part."""
    mesh = getattr(target, "device_mesh", None)
    if mesh is not None:
        from torch.distributed.tensor import distribute_tensor  # half a second, only for sharded tensors

        placements = target.placements  # type: ignore[attr-defined]
        values = distribute_tensor(values, mesh, placements, src_data_rank=None)
    target.copy_(values)


def whole(x: Tensor) -> Tensor:
    """Gather a sharded tensor (a collective); return any other tensor unchanged."""
    gather: Callable[[], Tensor] | None = getattr(x, "full_tensor", None)
    return x if gather is None else gather()
