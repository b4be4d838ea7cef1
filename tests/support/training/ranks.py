"""Run a function on several ranks: processes with a gloo process group, as under torchrun."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SECONDS = 60


def run_on_ranks(function: Callable[..., Any], world: int, folder: Path, *arguments: Any) -> list[Any]:
    """Run `function(*arguments)` on each rank; return their results in rank order. `folder` must be empty.

    The function must be importable (defined at the top of a file) and return tensors in lists, tuples and
    dictionaries. An exception on a rank fails the test.
    """
    mp.spawn(_rank, args=(world, str(folder), function, arguments), nprocs=world)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]


def _rank(
    rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=SECONDS),
    )
    try:
        torch.save(function(*arguments), Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()
