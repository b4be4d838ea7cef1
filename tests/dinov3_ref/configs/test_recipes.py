"""Recipes have the published values; a difference is named in the recipe, with its reason."""

from __future__ import annotations

import re
from typing import Any

import pytest
from omegaconf import OmegaConf

from dinov3_ref.configs import load_config
from dinov3_ref.configs.load import RECIPES
from dinov3_ref.configs.official_keys import UNREAD, UNUSED
from dinov3_ref.models import ARCHITECTURES
from tests.support.training.official_configs import leaves, published

CONVNEXT = "train/distillation_convnext/"
STUDENTS = f"{CONVNEXT}multi_distillation_convnext_test.yaml"
DISTILLED = "train/dinov3_vitl16_lvd1689m_distilled.yaml"
PUBLISHED: dict[str, tuple[str, ...]] = {
    "vitl_im1k": ("train/vitl_im1k_lin834.yaml",),
    "vit7b_pretrain": ("train/dinov3_vit7b16_pretrain.yaml",),
    "gram_anchor": ("train/dinov3_vit7b16_gram_anchor.yaml",),
    "high_resolution": ("train/dinov3_vit7b16_high_res_adapt.yaml",),
    "distillation": (DISTILLED,),
    "multidistillation": (DISTILLED,),
    "distillation_convnext": (STUDENTS, f"{CONVNEXT}convnext_tiny_p16.yaml"),
    "distillation_convnext_small": (STUDENTS, f"{CONVNEXT}convnext_small_p16.yaml"),
    "distillation_convnext_base": (STUDENTS, f"{CONVNEXT}convnext_base_p16.yaml"),
    "distillation_convnext_large": (STUDENTS, f"{CONVNEXT}convnext_large_p16.yaml"),
}
# Paths that the user gives, and an interval of the official files that means never.
GIVEN = (
    "train.dataset_path",
    "train.output_dir",
    "distillation.full_cfg_path",
    "distillation.checkpoint_path",
)
NEVER = 99999999999999999


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name: str) -> None:
    given = ["distillation.full_cfg_path=x", "distillation.checkpoint_path=y"] if "distil" in name else []
    config = load_config(name, given)
    wanted = published("ssl_default_config.yaml", *PUBLISHED[name])
    differing = {key for key, value in wanted.items() if _acts(key, value) and not _same(config, key, value)}
    assert differing == _named_differences(name)


def _acts(key: str, value: Any) -> bool:
    idle = key in UNREAD or any(f"{key}.".startswith(f"{unused}.") for unused in UNUSED)
    return not (idle or key in GIVEN or value is None)


def _same(config: Any, key: str, value: Any) -> bool:
    found = OmegaConf.select(config, key)
    if found is None and key == "student.ffn_layer":  # the architecture's own
        found = getattr(ARCHITECTURES[config.student.arch], "ffn_layer", value)
    if found is None and value == NEVER:
        return True
    if OmegaConf.is_config(found):
        return bool(OmegaConf.to_container(found) == value)
    return bool(found == (float(value) if isinstance(found, float) else value))


def _named_differences(name: str) -> set[str]:
    """Keys of the lines `# differs: KEY: reason` of a recipe and of the one that it extends."""
    text = (RECIPES / f"{name}.yaml").read_text()
    found = set(re.findall(r"^# differs: (\S+): \S", text, re.MULTILINE))
    base = re.search(r"^base: (\S+)", text, re.MULTILINE)
    if base is None:
        return found
    own = {key for key, _ in leaves(OmegaConf.to_container(OmegaConf.create(text)))}  # type: ignore[arg-type]
    return found | (_named_differences(base[1]) - own)
