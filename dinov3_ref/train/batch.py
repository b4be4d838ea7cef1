"""A collated batch, checked and moved to the device (docs/spec.md 4.3).

Shapes: B images, each with 2 global and n local crops; P patches of a global crop; M masked patches of the
batch; C channels; S, s, S' sides of global, local and Gram crops.
Crops are crop-major: crop 0 of all images, then crop 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.configs.default import N_GLOBAL_CROPS
from dinov3_ref.loss.ibot_patch_loss import weights_of_masks


@dataclass(frozen=True)
class Batch:
    """The inputs of a training step."""

    global_crops: Tensor  # [2B,C,S,S]
    local_crops: Tensor | None  # [nB,C,s,s]
    masks: Tensor  # [2B,P] bool
    mask_indices: Tensor  # [M] rows of the flattened [2B·P]
    masks_weight: Tensor  # [M] 1 / masked patches of the row's crop
    gram_teacher_crops: Tensor | None  # [2B,C,S',S']
    teacher_crops: Tensor  # [2B,C,S,S] the global crops, or the same without distortions

    @property
    def size(self) -> int:
        """B."""
        return len(self.global_crops) // N_GLOBAL_CROPS

    @classmethod
    def from_collated(cls, data: Mapping[str, Any], device: torch.device) -> Batch:
        """Read the dictionary of the data loader.

        `collated_global_crops`, `collated_local_crops` and `collated_masks` are enough
        (docs/development/seed.md S49). Raises ValueError for missing entries and for ones that do not fit.
        """

        def fetch(name: str) -> Tensor | None:
            value = data.get(name)
            return None if value is None else value.to(device, non_blocking=True)

        global_crops, masks = fetch("collated_global_crops"), fetch("collated_masks")
        if global_crops is None or masks is None:
            raise ValueError(
                f"the batch has {', '.join(data) or 'nothing'}; wanted collated_global_crops and "
                "collated_masks (and collated_local_crops)"
            )
        if len(global_crops) % N_GLOBAL_CROPS or len(global_crops) != len(masks):
            raise ValueError(
                f"{len(global_crops)} global crops with {len(masks)} masks; wanted two crops per image and "
                "one mask per crop"
            )
        indices, weights = fetch("mask_indices_list"), fetch("masks_weight")
        local_crops, teacher_crops = fetch("collated_local_crops"), fetch("collated_global_crops_teacher")
        return cls(
            global_crops=global_crops,
            local_crops=None if local_crops is None or len(local_crops) == 0 else local_crops,
            masks=masks,
            mask_indices=mask_indices(masks) if indices is None else indices,
            masks_weight=weights_of_masks(masks) if weights is None else weights,
            gram_teacher_crops=fetch("collated_gram_teacher_crops"),
            teacher_crops=global_crops if teacher_crops is None else teacher_crops,
        )


def mask_indices(masks: Tensor) -> Tensor:
    """Bool masks [2B,P] -> indices [M] of the true entries in the flattened masks [2B·P]."""
    return masks.flatten().nonzero().flatten()
