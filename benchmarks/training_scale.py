"""What sharding costs and saves: bytes of each rank, and the error of bf16 gradients, for every strategy.

    .venv/bin/python benchmarks/training_scale.py

1. The third stage of the 7B (student, EMA teacher, Gram teacher) on 8 and 256 ranks, computed on the meta
   device, without activations.
2. The same networks with the width of a ViT-L and `--depth` blocks on two ranks (gloo, CPU): growth of the
   process's memory at its peak while it builds and shards, whole and in parts.
3. The error of gradients with products in bf16, relative to fp32, of a ViT-S with six blocks on two ranks.

Writes benchmarks/ledger/training_scale_<machine>_<yyyymm>.json.
"""

from __future__ import annotations

import os
import resource
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from shared import make_parser, new_record, save
from torch import Tensor

from dinodeploy.hardware.devices import cpu_name
from dinov3_ref.configs import load_config
from dinov3_ref.distributed import get_rank, whole
from dinov3_ref.train.distributed.data_parallel import STRATEGIES, parallelize
from dinov3_ref.train.distributed.deferred_init import build_deferred
from dinov3_ref.train.distributed.devices import autocast
from dinov3_ref.train.distributed.memory import footprint
from dinov3_ref.train.ssl_meta_arch import SSLMetaArch

CPU = torch.device("cpu")
WORLD = 2
GRAM = ("gram.use_loss=true", "gram.ckpt=ignore", "gram.it_load_ema_teacher=0", "gram.rep_update=false")
PLAIN = ("train.compile=false", "student.pos_embed_rope_dtype=fp32", "dino.koleo_loss_distributed=true")
IMAGES, LARGE, SMALL = 4, 96, 48


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--depth", type=int, default=6, help="blocks of the model in part 2")
    options = parser.parse_args()
    record = {
        **new_record("training_scale", ("torch",)),
        "device": cpu_name(),
        "options": vars(options),
        "seven_billion": [computed(*case) for case in cases()],
        "building_two_ranks": [
            {"how": how, "growth_mib": on_two_ranks(growth, how, options.depth)}
            for how in ("whole, then sharded", "on meta, sharded, then in parts")
        ],
        "gradient_error": on_two_ranks(gradient_errors)[0],
    }
    path = save(record, "training_scale", machine=cpu_name())
    show(record)
    print(f"written: {path}")


# ---- 1. computed --------------------------------------------------------------------------------


def cases() -> list[tuple[str, int, int | None]]:
    """Strategy, ranks, ranks of a group."""
    alone = [(strategy, 8, None) for strategy in STRATEGIES]
    return [*alone, ("SHARD_GRAD_OP", 256, None), ("FULL_SHARD", 256, None), ("FULL_SHARD", 256, 8)]


def computed(strategy: str, world: int, group: int | None) -> dict[str, Any]:
    config = load_config("gram_anchor", ["student.fp8_enabled=false", "gram.ckpt=ignore"])
    config.compute_precision.sharding_strategy = strategy
    config.compute_precision.shard_ranks = group
    parts = footprint(SSLMetaArch(config, "meta"), config, world)
    return {
        "strategy": strategy,
        "ranks": world,
        "shard_ranks": group,
        **{f"{name}_gb": value / 1e9 for name, value in vars(parts).items()},
        "total_gb": parts.total / 1e9,
    }


# ---- 2. and 3. measured on two ranks ------------------------------------------------------------


def on_two_ranks(function: Any, *arguments: Any) -> list[Any]:
    """The results of both ranks, each a new process whose freed memory goes back to the system at once."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # else glibc keeps freed parameters, more or less of them
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, args=(folder, function, arguments), nprocs=WORLD)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(WORLD)]


def _rank(rank: int, folder: str, function: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(minutes=10),
    )
    try:
        torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def growth(how: str, depth: int) -> dict[str, float]:
    """Peak growth of this process while it builds and shards, and the bytes that it then holds, in MiB."""
    config = load_config(
        None,
        [
            *PLAIN,
            *GRAM,
            "student.arch=vit_large",
            f"student.depth={depth}",
            "crops.gram_teacher_crops_size=224",
            "dino.head_n_prototypes=8192",
            "ibot.head_n_prototypes=8192",
        ],
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    if how.startswith("whole"):
        arch = SSLMetaArch(config)
    else:
        arch = build_deferred(lambda: SSLMetaArch(config, "meta"), CPU)
    parallelize(arch, config, CPU)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = footprint(arch, config, WORLD)
    return {"peak": (peak - before) / 2**10, "held": (parts.student + parts.teachers) / 2**20}


def gradient_errors() -> list[dict[str, Any]]:
    """Norm of the difference to fp32 over the norm in fp32, for each module of the student."""
    wanted = gradients("NO_SHARD", "fp32", "fp32")
    rows = []
    for strategy in STRATEGIES:
        for reduce in ("fp32",) if strategy == "NO_SHARD" else ("fp32", "bf16"):
            got = gradients(strategy, "bf16", reduce)
            errors = {
                name: float((got[name] - value).norm() / value.norm()) for name, value in wanted.items()
            }
            rows.append({"strategy": strategy, "reduce_dtype": reduce, **errors})
    same = gradients("FULL_SHARD", "fp32", "fp32")
    errors = {name: float((same[name] - value).norm() / value.norm()) for name, value in wanted.items()}
    return [*rows, {"strategy": "FULL_SHARD, fp32", "reduce_dtype": "fp32", **errors}]


def gradients(strategy: str, dtype: str, reduce: str) -> dict[str, Tensor]:
    """All gradients of each module of the student, as one vector."""
    config = load_config(
        None,
        [
            *PLAIN,
            "student.arch=vit_small",
            "student.depth=6",
            "student.layerscale=0.1",
            "student.drop_path_rate=0",
            "dino.head_n_prototypes=1024",
            "ibot.head_n_prototypes=1024",
            f"train.batch_size_per_gpu={IMAGES}",
            f"compute_precision.sharding_strategy={strategy}",
            f"compute_precision.param_dtype={dtype}",
            f"compute_precision.reduce_dtype={reduce}",
        ],
    )
    torch.manual_seed(0)
    arch = SSLMetaArch(config).train()
    model = parallelize(arch, config, CPU)
    with autocast(config, CPU):
        loss, _ = model.loss(batch(), teacher_temp=0.05)
    loss.backward()
    return {
        name: torch.cat([whole(p.grad).flatten() for p in module.parameters() if p.grad is not None])
        for name, module in arch.student.items()
    }


def batch() -> dict[str, Any]:
    """Crops of smooth random images, other ones on each rank."""
    torch.manual_seed(1 + get_rank())
    images = torch.nn.functional.interpolate(torch.randn(2 * IMAGES, 3, 8, 8), LARGE, mode="bicubic")
    local = torch.nn.functional.interpolate(torch.randn(4 * IMAGES, 3, 8, 8), SMALL, mode="bicubic")
    masks = torch.rand(2 * IMAGES, (LARGE // 16) ** 2) < 0.3
    return {"collated_global_crops": images, "collated_local_crops": local, "collated_masks": masks}


def show(record: dict[str, Any]) -> None:
    print("7B, student, EMA and Gram teacher, GB per rank without activations")
    for row in record["seven_billion"]:
        group = f" in groups of {row['shard_ranks']}" if row["shard_ranks"] else ""
        print(f"  {row['strategy']:14} {row['ranks']:4} ranks{group}: {row['total_gb']:.1f}")
    for row in record["building_two_ranks"]:
        peaks = ", ".join(f"{rank['peak']:.0f} (holds {rank['held']:.0f})" for rank in row["growth_mib"])
        print(f"building {row['how']}: MiB of each rank {peaks}")
    for row in record["gradient_error"]:
        errors = ", ".join(f"{name} {row[name]:.1e}" for name in ("backbone", "dino_head", "ibot_head"))
        print(f"gradient error {row['strategy']:16} reduced in {row['reduce_dtype']}: {errors}")


if __name__ == "__main__":
    main()
