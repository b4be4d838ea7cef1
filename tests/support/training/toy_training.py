"""Tiny training runs for tests: configurations, collated batches of photographs, and what a run wrote.

Global crops are 32x48 (a grid of 2x3 patches), local crops 16x32: off-square multiples of the patch size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from dinov3_ref.configs import load_config
from dinov3_ref.train.logging.run_log import read_metrics
from tests.support.images.photographs import PHOTOGRAPHS, pixels

N_LOCAL = 3
TINY = (
    "student.arch=vit_small",
    "student.embed_dim=32",
    "student.depth=2",
    "student.num_heads=2",
    "student.drop_path_rate=0.0",
    "student.layerscale=0.5",
    "student.pos_embed_rope_dtype=fp32",
    f"crops.local_crops_number={N_LOCAL}",
    "train.batch_size_per_gpu=4",
    "train.OFFICIAL_EPOCH_LENGTH=5",
    "train.compile=false",
    "train.tensorboard=false",
    "optim.epochs=4",
    "optim.warmup_epochs=1",
    "teacher.warmup_teacher_temp_epochs=2",
    "compute_precision.param_dtype=fp32",
    *(
        f"{head}.{name}"
        for head in ("dino", "ibot")
        for name in ("head_n_prototypes=24", "head_hidden_dim=16", "head_bottleneck_dim=8")
    ),
)
# keys of `student` that turn the tiny ViT into a ConvNeXt
CONVNEXT: dict[str, Any] = {
    "arch": "convnext_tiny",
    **dict.fromkeys(("embed_dim", "depth", "num_heads")),
    "depths": [1, 1, 2, 1],
    "dims": [8, 12, 16, 24],
}


def tiny_training(*overrides: str) -> Any:
    """The configuration of a two-block student, with `overrides`."""
    return load_config(None, [*TINY, *overrides])


def as_convnext() -> tuple[str, ...]:
    """CONVNEXT as command-line overrides."""
    return tuple(f"student.{key}={json.dumps(value)}" for key, value in CONVNEXT.items())


def tiny_run(photos: Path, output: Path, *overrides: str) -> Any:
    """A run on `photos` into `output`: epochs of two steps with two images each; every step is logged."""
    return tiny_training(
        f"train.dataset_path={photos}",
        f"train.output_dir={output}",
        "train.num_workers=0",
        "train.batch_size_per_gpu=2",
        "train.OFFICIAL_EPOCH_LENGTH=2",
        "train.log_period=1",
        "crops.global_crops_size=32",
        "crops.local_crops_size=16",
        "crops.local_crops_number=2",
        *overrides,
    )


def frozen_teacher(folder: Path) -> tuple[str, ...]:
    """Overrides of a run with the teacher in `folder` (fixture `teacher` of tests/dinov3_ref/train)."""
    return (
        "distillation.enabled=true",
        f"distillation.full_cfg_path={folder / 'teacher.yaml'}",
        f"distillation.checkpoint_path={folder / 'teacher.pth'}",
    )


def on_ranks(batch: int, strategy: str = "NO_SHARD") -> tuple[str, ...]:
    """Overrides of a run whose losses do not depend on the number of ranks; `batch` images per rank."""
    return (
        f"train.batch_size_per_gpu={batch}",
        f"compute_precision.sharding_strategy={strategy}",
        "dino.koleo_loss_distributed=true",
        "ibot.mask_sample_probability=1.0",  # every image with the same number of masked patches: else each
        "ibot.mask_ratio_min_max=[0.4,0.4]",  # rank draws its own
    )


def with_students(config: Any, students: Mapping[str, Mapping[str, Any]]) -> Any:
    """The run with several students: name -> own keys of `student` and `optim`."""
    entries = [{"name": name, **groups} for name, groups in students.items()]
    entry = {"multidistillation": {"enabled": True, "students": entries}}
    return OmegaConf.merge(config, OmegaConf.create(entry))


def records(output: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without those that measure time."""
    timed = ("images_per_second", "data_share")
    return [{k: v for k, v in record.items() if k not in timed} for record in read_metrics(output)]


def losses(output: Path) -> list[float]:
    """The total loss of every step of a run."""
    return [record["total_loss"] for record in read_metrics(output)]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules have bit-equal states."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def make_masks(images: int, patches: int) -> Tensor:
    """Bool [images, patches]: even images have no masked patch, odd image i has i (at most all)."""
    masks = torch.zeros(images, patches, dtype=torch.bool)
    for index in range(1, images, 2):
        masks[index, : min(index, patches)] = True
    return masks


def collated(images: int = 4, gram_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """A collated batch of `images` photographs; crops show the whole photograph, plain or mirrored."""
    names = list(PHOTOGRAPHS)[:images]
    whole = pixels(names, 32, 48)
    local = pixels(names, 16, 32)
    data: dict[str, Any] = {
        "collated_global_crops": torch.cat([whole, whole.flip(-1)]),
        "collated_local_crops": torch.cat([local, local.flip(-1), local.flip(-2)]),
        "collated_masks": make_masks(2 * images, 6),
    }
    if gram_size is not None:
        large = pixels(names, *gram_size)
        data["collated_gram_teacher_crops"] = torch.cat([large, large.flip(-1)])
    return data
