"""The table of released models against docs/spec.md 1.1 and 1.3, copied here by hand: counts, names,
hashes.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dinov3_ref import models
from dinov3_ref.errors import ConfigError
from dinov3_ref.models import (
    ARCHITECTURES,
    RELEASED,
    DinoVisionTransformer,
    ReleasedModel,
    ViTConfig,
    find_released,
    get_architecture,
)
from dinov3_ref.models.released import VITS

# name, D/L/heads, FFN, its width, qkv bias, local_cls_norm, parameters, state-dict entries, end of file stem.
SPEC_1_3 = """
dinov3_vits16       384/12/6    mlp       1536  yes  no      21601152  188  lvd1689m-08c60483
dinov3_vits16plus   384/12/6    swiglu    1536  yes  no      28697472  212  lvd1689m-4057cbaa
dinov3_vitb16       768/12/12   mlp       3072  yes  no      85669632  188  lvd1689m-73cec8be
dinov3_vitl16       1024/24/16  mlp       4096  yes  no     303154176  368  lvd1689m-8aa4cbdd
dinov3_vitl16_sat   1024/24/16  mlp       4096  yes  yes    303156224  370  sat493m-eadcf0ff
dinov3_vitl16plus   1024/24/16  swiglu    4096  yes  no     403915776  416  lvd1689m-46503df0
dinov3_vith16plus   1280/32/20  swiglu    5120  yes  no     840633600  552  lvd1689m-7c1da9a5
dinov3_vit7b16      4096/40/32  swiglu64  8192  no   yes   6716043264  610  lvd1689m-a955f4ea
dinov3_vit7b16_sat  4096/40/32  swiglu64  8192  no   yes   6716043264  610  sat493m-a6675841
"""
VIT_ROWS = [row for row in RELEASED if row.arch in VITS]  # ConvNeXts: test_convnext.py
PUBLISHED = {line.split()[0]: line.split()[1:] for line in SPEC_1_3.strip().splitlines()}

# docs/spec.md 1.1: parameters with (a) class defaults, (b) LayerScale and 4 storage tokens besides.
SPEC_1_1: dict[str, tuple[int, int]] = {
    "vit_small": (21_590_400, 21_601_152),
    "vit_base": (85_648_128, 85_669_632),
    "vit_large": (303_100_928, 303_154_176),
    "vit_so400m": (415_344_384, 415_411_200),
    "vit_huge2": (630_667_520, 630_754_560),
    "vit_giant2": (1_134_448_128, 1_134_577_152),
    "vit_7b": (6_716_018_688, 6_716_362_752),
}


def on_meta(config: ViTConfig) -> DinoVisionTransformer:
    """The model's shapes, without its memory."""
    with torch.device("meta"):
        return DinoVisionTransformer(**config.kwargs())


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_row_of_the_specification_is_there() -> None:
    assert [row.name for row in VIT_ROWS] == list(PUBLISHED)


@pytest.mark.parametrize("row", VIT_ROWS, ids=lambda row: row.name)
def test_a_released_model(row: ReleasedModel) -> None:
    dims, ffn_layer, width, qkv_bias, local_norm, params, entries, stem_end = PUBLISHED[row.name]
    config = row.config
    assert f"{config.embed_dim}/{config.depth}/{config.num_heads}" == dims
    assert (config.ffn_layer, config.qkv_bias) == (ffn_layer, qkv_bias == "yes")
    assert row.file_stem == f"{row.name.removesuffix('_sat')}_pretrain_{stem_end}"
    assert row.hash_prefix == stem_end[-8:]
    model = on_meta(config)
    state = model.state_dict()
    assert (count(model), len(state)) == (row.params, row.entries) == (int(params), int(entries))
    first = "blocks.0.mlp.fc1.weight" if ffn_layer == "mlp" else "blocks.0.mlp.w1.weight"
    assert state[first].shape == (int(width), config.embed_dim)
    assert ("local_cls_norm.weight" in state) is (local_norm == "yes")
    assert ("blocks.0.attn.qkv.bias_mask" in state) is (qkv_bias == "yes")
    assert state["rope_embed.periods"].shape == (config.head_dim // 4,)


@pytest.mark.parametrize("row", VIT_ROWS, ids=lambda row: row.name)
def test_what_all_released_models_share(row: ReleasedModel) -> None:
    """docs/spec.md 1.3, the paragraph above the table."""
    model: Any = on_meta(row.config)
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    assert {block.sample_drop_ratio for block in model.blocks} == {0.0}
    assert {block.ls1.init_values for block in model.blocks} == {1e-5}
    assert model.n_storage_tokens == 4
    assert model.cls_norm is None
    rope = model.rope_embed
    assert (rope.base, rope.min_period, rope.max_period, rope.normalize_coords) == (
        100,
        None,
        None,
        "separate",
    )
    assert (rope.shift_coords, rope.jitter_coords, rope.rescale_coords) == (None, None, 2)
    assert rope.dtype == torch.float32
    assert (model.patch_size, model.patch_embed.img_size, model.patch_embed.in_chans) == (16, (224, 224), 3)


@pytest.mark.parametrize("name", SPEC_1_1)
def test_constructors_leave_the_class_defaults(name: str) -> None:
    build = getattr(models, name)
    assert build.__name__ == name
    plain, scaled = SPEC_1_1[name]
    assert count(build(device="meta")) == plain
    assert count(build(device="meta", layerscale_init=1e-5, n_storage_tokens=4)) == scaled


@pytest.mark.parametrize("name", ["vit_small_plus", "vit_large_plus", "vit_huge_plus"])
def test_plus_constructors_are_swiglu_of_ratio_6(name: str) -> None:
    row = next(row for row in RELEASED if row.arch == name)
    model = getattr(models, name)(device="meta", layerscale_init=1e-5, n_storage_tokens=4)
    assert count(model) == row.params


def test_constructors_exist_for_every_architecture_and_take_options() -> None:
    assert set(ARCHITECTURES) == {name for name in models.__all__ if name.startswith(("vit_", "convnext_"))}
    model = models.vit_small(patch_size=8, depth=1, ffn_layer="swiglu32", device="meta")
    assert (model.patch_size, model.n_blocks) == (8, 1)
    assert inspect.signature(models.vit_small).parameters["patch_size"].default == 16


# ---- finding a row ------------------------------------------------------------------------------


@pytest.mark.parametrize("row", RELEASED, ids=lambda row: row.name)
def test_a_row_is_found_by_each_of_its_names(row: ReleasedModel) -> None:
    names = {row.name, row.hf_repo, row.timm_name, row.file_stem} - {None}
    assert len(names) == (2 if row.name == "dinov3_vitl16plus" else 4)
    assert {find_released(name) for name in names if name} == {row}
    assert find_released(row.arch, row.dataset) == row


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("facebook/dinov3-vits16-pretrain-lvd1689m", "dinov3_vits16"),
        ("facebook/dinov3-vith16plus-pretrain-lvd1689m", "dinov3_vith16plus"),
        ("facebook/dinov3-vit7b16-pretrain-sat493m", "dinov3_vit7b16_sat"),
        ("vit_small_plus_patch16_dinov3.lvd1689m", "dinov3_vits16plus"),
        ("vit_large_patch16_dinov3.sat493m", "dinov3_vitl16_sat"),
        ("vit_large", "dinov3_vitl16"),
        ("vit_7b", "dinov3_vit7b16"),
    ],
)
def test_names_as_they_are_in_the_wild(name: str, found: str) -> None:
    row = find_released(name)
    assert row is not None
    assert row.name == found


def test_names_of_nothing() -> None:
    assert find_released("vit_giant2") is None  # an architecture that was never released
    assert find_released("vit_small", "sat493m") is None
    assert find_released("dinov2_vits14") is None
    with pytest.raises(ConfigError, match="unknown architecture 'vit_tiny'; known: vit_small, "):
        get_architecture("vit_tiny")
    assert get_architecture("vit_so400m").ffn_ratio == 3.777777778


# ---- the configuration itself -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": 0}, "depth is 0; wanted a positive integer"),
        ({"num_heads": 7}, "leaves head_dim 54.8571; RoPE needs a multiple of 4"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0; wanted 0 <= rate < 1"),
    ],
)
def test_a_configuration_of_no_model_is_refused_when_created(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(VITS["vit_small"], **change)


def test_a_configuration_survives_its_dictionary() -> None:
    for config in VITS.values():
        assert ViTConfig.from_dict(config.kwargs()) == config
    with pytest.raises(ConfigError, match="unknown model option 'layerscale'; known: embed_dim, "):
        ViTConfig.from_dict(ARCHITECTURES["vit_small"].kwargs() | {"layerscale": 1e-5})
    assert VITS["vit_7b"].head_dim == 128


def test_the_constructor_knows_every_option_of_the_configuration() -> None:
    known = inspect.signature(DinoVisionTransformer).parameters
    assert set(ARCHITECTURES["vit_small"].kwargs()) == set(known) - {"attn_class", "device"}
