"""Collate samples into a batch and draw its masks, under the official keys (docs/spec.md 4.3, 4.13).

The number of masked patches per image is a ramp over the images of a rank, in random order. So every rank has
the same number of masked patches in every step, as in the official loader: no rank waits for another, and no
shape changes. Each mask is seeded by the position of its sample.

Shapes: B samples of this rank, (H, W) patch grid, P = H*W, M masked patches of this rank.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinov3_ref.configs.default import N_GLOBAL_CROPS
from dinov3_ref.data.masking import Mask, MaskingGenerator
from dinov3_ref.data.sample import Sample, derive_seed

Batch = dict[str, Any]


def collate_data_and_cast(
    samples_list: Sequence[Sample | tuple[Any, ...]],
    mask_ratio_tuple: tuple[float, float],
    mask_probability: float,
    dtype: torch.dtype,
    *,
    mask_generator: MaskingGenerator,
    random_circular_shift: bool = False,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Batch:
    """Collate the crops of `DataAugmentationDINO` into a batch in `dtype`, crop-major.

    `collated_global_crops` [2B,3,S,S], `collated_local_crops` [nB,3,s,s] (absent with n = 0),
    `collated_gram_teacher_crops` [2B,3,G,G] (if present), `collated_global_crops_teacher` [2B,3,S,S] (if they
    differ from the global crops), `collated_masks` bool [2B,P], `mask_indices_list`
    long [M] into 2B*P, `masks_weight` fp32 [M], 1 / masked patches of the image, `upperbound` M as an int,
    `n_masked_patches` long [1], `positions` long [B], `broken` list of lines.
    If a sample is empty, the batch has only {"broken", "drawn"} and the loader raises.
    """
    samples = [sample if isinstance(sample, Sample) else Sample(*sample) for sample in samples_list]
    broken = [line for sample in samples for line in sample.broken]
    if any(sample.views is None for sample in samples):
        return {"broken": broken, "drawn": len(samples)}
    positions = _positions(samples, rank, world_size)
    counts = mask_counts(
        N_GLOBAL_CROPS * len(samples), mask_generator.num_patches, mask_ratio_tuple, mask_probability
    )
    random.Random(derive_seed(seed, "counts", positions[0])).shuffle(counts)
    masks = [
        _mask(mask_generator, count, random_circular_shift, derive_seed(seed, "mask", position, crop))
        for (crop, position), count in zip(_slots(positions), counts, strict=True)
    ]
    batch: Batch = {"broken": broken, "drawn": len(samples), "positions": torch.tensor(positions)}
    for key in ("global_crops", "global_crops_teacher", "local_crops", "gram_teacher_crops"):
        first = samples[0].views.get(key)
        if first and (key == "global_crops" or first is not samples[0].views["global_crops"]):
            batch[f"collated_{key}"] = _stack(samples, key, dtype)
    return batch | collate_masks(masks)


def collate_masks(masks: Sequence[Mask]) -> Batch:
    """Masks of 2B crops, [H,W] each -> the mask entries of the batch."""
    masks_BP = torch.from_numpy(np.stack([mask.ravel() for mask in masks]))
    weight_BP = (1 / masks_BP.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks_BP)
    indices_M = masks_BP.flatten().nonzero().flatten()
    return {
        "collated_masks": masks_BP,
        "mask_indices_list": indices_M,
        "masks_weight": weight_BP[masks_BP],
        "upperbound": len(indices_M),
        "n_masked_patches": torch.tensor([len(indices_M)]),
    }


def mask_counts(images: int, patches: int, ratios: tuple[float, float], probability: float) -> list[int]:
    """Masked patches per image: zeros, then a ramp; for 8 images of 196 patches 0 0 0 0 39 58 78 98.

    Source: docs/spec.md 4.13.
    """
    masked = int(images * probability)
    ramp = torch.linspace(*ratios, masked + 1)[1:]
    return [0] * (images - masked) + [int(patches * ratio) for ratio in ramp]


def _slots(positions: Sequence[int]) -> list[tuple[int, int]]:
    """(crop, position) of the 2B crops, in batch order."""
    return [(crop, position) for crop in range(N_GLOBAL_CROPS) for position in positions]


def _mask(generator: MaskingGenerator, count: int, circular_shift: bool, seed: int) -> Mask:
    """A mask [H,W] with `count` masked patches."""
    rng = random.Random(seed)
    mask = generator(count, rng)
    if circular_shift:
        mask = np.roll(mask, (rng.randrange(generator.height), rng.randrange(generator.width)), (0, 1))
    return mask


def _positions(samples: Sequence[Sample], rank: int, world_size: int) -> list[int]:
    """Positions of the samples; consecutive ones from a random start if the sampler gives none."""
    known = [sample.position for sample in samples if sample.position is not None]
    if len(known) == len(samples):
        return known
    first = int(torch.randint(2**62, ())) + rank
    return [first + world_size * row for row in range(len(samples))]


def _stack(samples: Sequence[Sample], key: str, dtype: torch.dtype) -> Tensor:
    """Crops of B samples, c x [3,S,S] each -> [cB,3,S,S], crop-major."""
    crops = len(samples[0].views[key])
    return torch.stack([sample.views[key][crop] for crop in range(crops) for sample in samples]).to(dtype)
