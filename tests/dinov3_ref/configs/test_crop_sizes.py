"""Crop sizes must fit the stride of the model (docs/spec.md 2.19)."""

from __future__ import annotations

import pytest

from dinov3_ref.configs import Crops
from dinov3_ref.configs.crop_sizes import check_global_crops, check_local_crops
from dinov3_ref.errors import ConfigError


def test_a_convnext_needs_multiples_of_32() -> None:
    check_global_crops(Crops(global_crops_size=[224, 256]), "convnext_tiny", "the student")
    with pytest.raises(ConfigError, match="the student convnext_tiny sees 240 px; wanted a multiple"):
        check_global_crops(Crops(global_crops_size=[224, 240]), "convnext_tiny", "the student")


def test_the_size_after_scaling_counts() -> None:
    check_global_crops(Crops(global_crops_size=512), "convnext_tiny", "the student", 2.0)
    with pytest.raises(ConfigError, match=r"crops\.global_crops_size is 480, .* sees 240 px"):
        check_global_crops(Crops(global_crops_size=480), "convnext_tiny", "the student", 2.0)


def test_local_crops_need_one_patch() -> None:
    check_local_crops(Crops(local_crops_size=48), "convnext_tiny", 1.0)
    with pytest.raises(ConfigError, match="convnext_tiny sees 24 px; wanted at least its stride"):
        check_local_crops(Crops(local_crops_size=48), "convnext_tiny", 2.0)


def test_vits_are_not_checked() -> None:
    check_global_crops(Crops(global_crops_size=225), "vit_small", "the student")
