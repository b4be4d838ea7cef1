"""Small resumable loaders over photographs, and damaged image files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.data.augmentations import DataAugmentationDINO
from dinov3_ref.data.collate import collate_data_and_cast
from dinov3_ref.data.datasets import ImageFolder
from dinov3_ref.data.loaders import ResumableLoader, make_data_loader
from dinov3_ref.data.masking import MaskingGenerator
from tests.support.images.image_files import write_folder

augment = DataAugmentationDINO((0.32, 1.0), (0.05, 0.32), 2, global_crops_size=32, local_crops_size=16)


def loader(
    dataset: Any, batch_size: int = 4, rank: int = 0, world_size: int = 1, **options: Any
) -> ResumableLoader:
    collate = partial(
        collate_data_and_cast,
        mask_ratio_tuple=(0.1, 0.5),
        mask_probability=0.5,
        dtype=torch.float32,
        mask_generator=MaskingGenerator(2, min_num_patches=1),
        rank=rank,
        world_size=world_size,
    )
    return make_data_loader(
        dataset=dataset,
        batch_size=batch_size,
        collate_fn=collate,
        rank=rank,
        world_size=world_size,
        **options,
    )


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Bit for bit, every key."""
    return first.keys() == second.keys() and all(
        torch.equal(a, second[key]) if isinstance(a, Tensor) else a == second[key] for key, a in first.items()
    )


def with_broken(root: Path, broken: int) -> ImageFolder:
    write_folder(root)
    for number in range(broken):
        (root / "still" / f"a{number}.jpg").write_bytes(b"\xff\xd8\xff broken")
    return ImageFolder(root, transform=augment)
