"""The seed document's snippet on augmentation (SEED S52, S53; SPEC 8.1).

The document's words, with `dinov3` read as `dinov3_ref`. S53 says that the augmentation returns masks; in the
official code, and here, they come with the batch, because how much an image hides depends on its neighbours.
"""

from __future__ import annotations

import torch

from dinov3_ref.data.collate import collate_data_and_cast
from dinov3_ref.data.masking import MaskingGenerator
from tests.photographs import photograph


def test_s52_s53_views_of_an_image_and_their_masks() -> None:
    from dinov3_ref.data import DataAugmentationDINO

    image = photograph("chelsea")
    data_aug = DataAugmentationDINO(
        global_crops_scale=(0.4, 1.0),  # scale range of global crops
        local_crops_scale=(0.05, 0.4),  # scale range of local crops
        local_crops_number=8,  # number of local crops
        global_crops_size=224,  # size of global crops
        local_crops_size=96,  # size of local crops
    )
    augmented_data = data_aug(image)
    assert [crop.shape for crop in augmented_data["global_crops"]] == [(3, 224, 224)] * 2
    assert [crop.shape for crop in augmented_data["local_crops"]] == [(3, 96, 96)] * 8

    batch = collate_data_and_cast(
        [(augmented_data, ())] * 4,
        mask_ratio_tuple=(0.1, 0.5),
        mask_probability=0.5,
        dtype=torch.float32,
        mask_generator=MaskingGenerator(14, max_num_patches=98),
    )
    assert batch["collated_global_crops"].shape == (8, 3, 224, 224)
    assert batch["collated_local_crops"].shape == (32, 3, 96, 96)
    assert sorted(batch["collated_masks"].sum(1).tolist()) == [0, 0, 0, 0, 39, 58, 78, 98]
