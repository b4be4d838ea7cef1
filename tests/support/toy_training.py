"""A training run small enough for tests: its configuration, and collated batches of real photographs.

Global crops are 32x48 (a grid of 2x3 patches), local ones 16x32: off-square, and divisible by the patch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from dinov3_ref.configs import load_config
from tests.support.photographs import PHOTOGRAPHS, pixels

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
# in place of the two blocks; TINY's other keys stay
CONVNEXT: dict[str, Any] = {
    "arch": "convnext_tiny",
    **dict.fromkeys(("embed_dim", "depth", "num_heads")),
    "depths": [1, 1, 2, 1],
    "dims": [8, 12, 16, 24],
}


def tiny_training(*overrides: str) -> Any:
    """Configuration of a two-block student; `overrides` come last."""
    return load_config(None, [*TINY, *overrides])


def as_convnext() -> tuple[str, ...]:
    """CONVNEXT as overrides."""
    return tuple(f"student.{key}={json.dumps(value)}" for key, value in CONVNEXT.items())


def tiny_run(photos: Path, output: Path, *overrides: str) -> Any:
    """The same over `photos`, into `output`: two steps of two pictures an epoch, each recorded."""
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
    """Overrides of a run that learns from the teacher in `folder` (the `teacher` fixture of tests/train)."""
    return (
        "distillation.enabled=true",
        f"distillation.full_cfg_path={folder / 'teacher.yaml'}",
        f"distillation.checkpoint_path={folder / 'teacher.pth'}",
    )


def with_students(config: Any, students: Mapping[str, Mapping[str, Any]]) -> Any:
    """The run with several students in place of its own: name -> keys of `student` and `optim`."""
    entries = [{"name": name, **groups} for name, groups in students.items()]
    words = {"multidistillation": {"enabled": True, "students": entries}}
    return OmegaConf.merge(config, OmegaConf.create(words))


def make_masks(images: int, patches: int) -> Tensor:
    """Bool [images, patches]: none masked in even images, 1, 2, 3, … of them in odd ones."""
    masks = torch.zeros(images, patches, dtype=torch.bool)
    for index in range(1, images, 2):
        masks[index, : min(index, patches)] = True
    return masks


def collated(images: int = 4, gram_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """What collate makes of `images` photographs; every crop shows its photograph whole, then mirrored."""
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
