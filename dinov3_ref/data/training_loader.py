"""Build the training loader of a configuration.

Source: docs/spec.md 4.1 (groups `crops`, `ibot`, `train`), 4.13, 4.14.

With several crop sizes there is one loader per size, all over the same dataset.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dinov3_ref.data.augmentations import DataAugmentationDINO
from dinov3_ref.data.collate import Batch, collate_data_and_cast
from dinov3_ref.data.datasets import EncodedImages, make_dataset
from dinov3_ref.data.loaders import CombinedDataLoader, ResumableLoader, make_data_loader
from dinov3_ref.data.masking import MaskingGenerator, max_rectangle
from dinov3_ref.distributed import get_rank, get_world_size
from dinov3_ref.errors import ConfigError
from dinov3_ref.models.vision_transformer import dtype_dict

CropSizes = tuple[int, int, int | None]  # global, local, Gram teacher


def build_training_loader(
    config: Any,
    *,
    dataset: EncodedImages | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    max_broken_fraction: float = 0.01,
) -> ResumableLoader | CombinedDataLoader:
    """Endless batches of `collate_data_and_cast`, `config.train.batch_size_per_gpu` images per rank.

    config: the official groups, in OmegaConf or any object with attributes. dataset: replaces
    `config.train.dataset_path`. rank, world_size: of torch.distributed if None. Raises `ConfigError`,
    `DataError`.

    The official loader adds the first iteration to its seed; here it does not, so a resumed run continues in
    the same order.
    """
    images = make_dataset(config.train.dataset_path) if dataset is None else dataset
    rank = get_rank() if rank is None else rank
    world_size = get_world_size() if world_size is None else world_size
    loaders = []
    for number, sizes in enumerate(crop_sizes(config.crops), 1):
        seed = config.train.seed + number
        loader = make_data_loader(
            dataset=_augmented(images, config, sizes),
            batch_size=config.train.batch_size_per_gpu,
            collate_fn=_collate(config, sizes[0], seed, rank, world_size),
            num_workers=config.train.num_workers,
            seed=seed,
            rank=rank,
            world_size=world_size,
            max_broken_fraction=max_broken_fraction,
        )
        loaders.append(loader)
    if len(loaders) == 1:
        return loaders[0]
    return CombinedDataLoader(loaders, _as_list(config.crops.global_local_crop_pairs_ratios))


def crop_sizes(crops: Any) -> list[CropSizes]:
    """(global, local, Gram) crop sizes of every resolution; a single number is used for all of them.

    Raises `ConfigError` for lists of different lengths.
    """
    columns = [
        _as_list(crops.global_crops_size),
        _as_list(crops.local_crops_size),
        _as_list(crops.gram_teacher_crops_size),
    ]
    count = max(map(len, columns))
    if any(len(column) not in (1, count) for column in columns):
        raise ConfigError(
            f"crops has {len(columns[0])} global, {len(columns[1])} local, {len(columns[2])} gram sizes; "
            "wanted equally many of each, or one"
        )
    return list(zip(*(column * (count // len(column)) for column in columns), strict=True))


def _augmented(images: EncodedImages, config: Any, sizes: CropSizes) -> EncodedImages:
    """A shallow copy of the dataset, with the augmentation for these sizes."""
    crops = config.crops
    augmented = copy.copy(images)
    augmented.transform = DataAugmentationDINO(
        tuple(crops.global_crops_scale),
        tuple(crops.local_crops_scale),
        crops.local_crops_number,
        global_crops_size=sizes[0],
        local_crops_size=sizes[1],
        gram_teacher_crops_size=sizes[2],
        gram_teacher_no_distortions=crops.gram_teacher_no_distortions,
        teacher_no_color_jitter=crops.teacher_no_color_jitter,
        local_crops_subset_of_global_crops=crops.localcrops_subset_of_globalcrops,
        patch_size=config.student.patch_size,
        share_color_jitter=crops.share_color_jitter,
        horizontal_flips=crops.horizontal_flips,
        mean=tuple(crops.rgb_mean),
        std=tuple(crops.rgb_std),
        color_jitter=tuple(crops.color_jitter),
        grayscale_probability=crops.grayscale_probability,
    )
    return augmented


def _collate(config: Any, size: int, seed: int, rank: int, world_size: int) -> Callable[..., Batch]:
    """The collate function for this crop size; masks are on the patch grid of the student's crops."""
    patch_size = config.student.patch_size
    student_size = int(size / config.crops.teacher_to_student_resolution_scale)
    if student_size % patch_size:
        raise ConfigError(
            f"crops of {student_size} px do not divide into patches of {patch_size} px; use a multiple"
        )
    generator = MaskingGenerator(
        student_size // patch_size, max_num_patches=max_rectangle(student_size, patch_size)
    )
    low, high = config.ibot.mask_ratio_min_max
    return partial(
        collate_data_and_cast,
        mask_ratio_tuple=(low, high),
        mask_probability=config.ibot.mask_sample_probability,
        dtype=dtype_dict[config.compute_precision.param_dtype],
        mask_generator=generator,
        random_circular_shift=config.ibot.mask_random_circular_shift,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value]
