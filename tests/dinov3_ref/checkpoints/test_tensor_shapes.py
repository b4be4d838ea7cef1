"""The table of tensors against the model it describes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dinov3_ref.checkpoints.tensor_shapes import expected_shapes, ffn_width
from dinov3_ref.errors import ConfigError
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig
from dinov3_ref.models.convnext import ConvNeXt
from dinov3_ref.models.released import ARCHITECTURES, RELEASED, VITS
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from tests.support.checkpoint_files import TINY_VITS

TINY_VIT = TINY_VITS["mlp"]
CONFIGS: dict[str, ModelConfig] = {
    **ARCHITECTURES,
    **{row.name: row.config for row in RELEASED},
    "no extras": replace(TINY_VIT, layerscale_init=None, n_storage_tokens=0, mask_k_bias=False),
    "no biases": replace(TINY_VIT, qkv_bias=False, proj_bias=False, ffn_bias=False),
    "rmsnorm": replace(TINY_VIT, norm_layer="rmsnorm", untie_cls_and_patch_norms=True),
    "swiglu128": replace(TINY_VIT, ffn_layer="swiglu128", ffn_ratio=3.0),
    "ConvNeXt of six channels": ConvNeXtConfig((1, 2, 1, 1), (8, 16, 24, 32), in_chans=6),
    "ConvNeXt without LayerScale": ConvNeXtConfig(layer_scale_init_value=0.0),
    "six channels, patch 14": replace(TINY_VIT, in_chans=6, patch_size=14),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_table_is_the_models_state_dict(name: str) -> None:
    config = CONFIGS[name]
    with torch.device("meta"):
        kind = ConvNeXt if isinstance(config, ConvNeXtConfig) else DinoVisionTransformer
        model = kind(**config.kwargs())
    assert expected_shapes(config) == {key: tuple(t.shape) for key, t in model.state_dict().items()}


@pytest.mark.parametrize("row", RELEASED, ids=lambda row: row.name)
def test_released_models_have_the_published_number_of_entries(row) -> None:
    assert len(expected_shapes(row.config)) == row.entries


def test_ffn_width_is_the_published_one() -> None:
    widths = {"vit_small_plus": 1536, "vit_so400m": 4352, "vit_huge_plus": 5120, "vit_7b": 8192}
    assert {arch: ffn_width(VITS[arch]) for arch in widths} == widths


def test_unknown_ffn_is_refused() -> None:
    with pytest.raises(ConfigError, match="ffn_layer 'mixture'"):
        ffn_width(replace(TINY_VIT, ffn_layer="mixture"))
