"""Building the vision transformer: defaults, attributes, registries, initial weights.

Source: docs/spec.md 1.2, 2.17.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.layers import LinearKMaskedBias, RMSNorm
from dinov3_ref.models import DinoVisionTransformer
from tests.support.images.photographs import pixels

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 3, "num_heads": 2}

# docs/spec.md 1.2, in its order.
DEFAULTS = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "pos_embed_rope_base": 100.0,
    "pos_embed_rope_min_period": None, "pos_embed_rope_max_period": None,
    "pos_embed_rope_normalize_coords": "separate", "pos_embed_rope_shift_coords": None,
    "pos_embed_rope_jitter_coords": None, "pos_embed_rope_rescale_coords": None,
    "pos_embed_rope_dtype": "bf16", "embed_dim": 768, "depth": 12, "num_heads": 12, "ffn_ratio": 4.0,
    "qkv_bias": True, "drop_path_rate": 0.0, "layerscale_init": None, "norm_layer": "layernorm",
    "ffn_layer": "mlp", "ffn_bias": True, "proj_bias": True, "n_storage_tokens": 0, "mask_k_bias": False,
    "untie_cls_and_patch_norms": False, "untie_global_and_local_cls_norm": False, "device": None,
}  # fmt: skip


def test_defaults_of_the_official_class() -> None:
    parameters = inspect.signature(DinoVisionTransformer).parameters
    assert {n: p.default for n, p in parameters.items() if n != "attn_class"} == DEFAULTS
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


def test_public_attributes() -> None:
    model: Any = DinoVisionTransformer(**SMALL, n_storage_tokens=3)
    assert (model.embed_dim, model.num_features, model.n_blocks, model.num_heads) == (64, 64, 3, 2)
    assert (model.patch_size, model.n_storage_tokens) == (16, 3)
    assert model.cls_token.shape == (1, 1, 64)
    assert model.storage_tokens.shape == (1, 3, 64)
    assert model.mask_token.shape == (1, 64)
    assert model.patch_embed.flatten_embedding is False
    assert (model.cls_norm, model.local_cls_norm) == (None, None)
    assert isinstance(model.head, nn.Identity)
    assert isinstance(model.blocks, nn.ModuleList)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"norm_layer": "batchnorm"}, "norm_layer 'batchnorm' is not registered; known: layernorm, "),
        ({"ffn_layer": "moe"}, "ffn_layer 'moe' is not registered; known: mlp, swiglu, "),
        ({"pos_embed_rope_dtype": "fp8"}, "pos_embed_rope_dtype 'fp8' is not registered; known: fp64, "),
    ],
)
def test_unknown_layer_names_are_errors(option: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DinoVisionTransformer(**SMALL, **option)


def test_unknown_options_are_errors() -> None:
    """The official class swallows them with a warning; a typo then trains another model."""
    with pytest.raises(TypeError, match="layerscale"):
        DinoVisionTransformer(layerscale=1e-5)  # type: ignore[call-arg]


@pytest.mark.parametrize(("name", "eps"), [("layernorm", 1e-6), ("layernormbf16", 1e-5), ("rmsnorm", 1e-5)])
def test_eps_of_every_norm(name: str, eps: float) -> None:
    """docs/spec.md 0, fact 4."""
    model = DinoVisionTransformer(
        **SMALL, norm_layer=name, untie_cls_and_patch_norms=True, untie_global_and_local_cls_norm=True
    )
    norms = [module for module in model.modules() if isinstance(module, (nn.LayerNorm, RMSNorm))]
    assert len(norms) == 2 * 3 + 3
    assert {norm.eps for norm in norms} == {eps}
    assert {type(norm) for norm in norms} == {RMSNorm if name == "rmsnorm" else nn.LayerNorm}
    assert model.eval()(pixels(["coffee"], 32, 48)).shape == (1, 64)


@pytest.mark.parametrize(("name", "width"), [("swiglu", 176), ("swiglu32", 192), ("swiglu128", 256)])
def test_names_of_swiglu_say_their_alignment(name: str, width: int) -> None:
    model: Any = DinoVisionTransformer(embed_dim=66 * 4, depth=1, num_heads=2, ffn_layer=name, ffn_ratio=1.0)
    assert model.blocks[0].mlp.w1.weight.shape == (width, 264)


def test_options_reach_every_block() -> None:
    model: Any = DinoVisionTransformer(**SMALL, drop_path_rate=0.3, mask_k_bias=True, layerscale_init=0.1)
    assert [block.sample_drop_ratio for block in model.blocks] == [0.3] * 3  # no decay over depth
    assert all(isinstance(block.attn.qkv, LinearKMaskedBias) for block in model.blocks)
    assert all(block.ls1.init_values == block.ls2.init_values == 0.1 for block in model.blocks)


def test_initial_weights() -> None:
    """docs/spec.md 2.17: nothing is left to uninitialised memory."""
    torch.manual_seed(0)
    model: Any = DinoVisionTransformer(
        embed_dim=256, depth=2, num_heads=2, layerscale_init=0.1, n_storage_tokens=64, mask_k_bias=True
    )
    for tensor in model.state_dict().values():
        tensor.fill_(torch.nan)
    model.init_weights()
    state = model.state_dict()
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    for name, tensor in state.items():
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")):
            assert bool((tensor == 1).all()), name
        elif name.endswith("gamma"):
            assert bool((tensor == torch.tensor(0.1)).all()), name
        elif name.startswith("blocks") and name.endswith("weight"):
            assert float(tensor.std()) == pytest.approx(0.02, rel=0.05), name
        elif name.startswith(("blocks", "norm", "mask_token")) and not name.endswith("bias_mask"):
            assert not tensor.any(), name
    assert float(state["storage_tokens"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["cls_token"].std()) == pytest.approx(0.02, rel=0.2)
    assert state["blocks.1.attn.qkv.bias_mask"].view(3, 256)[:, 0].tolist() == [1, 0, 1]
    assert float(state["rope_embed.periods"][0]) == 1.0
    assert float(state["patch_embed.proj.bias"].abs().max()) <= 1 / 768**0.5


def test_a_model_on_the_meta_device_stays_there() -> None:
    for model in (DinoVisionTransformer(**SMALL, device="meta"), on_meta()):
        assert {t.device.type for t in model.state_dict().values()} == {"meta"}


def on_meta() -> DinoVisionTransformer:
    with torch.device("meta"):
        return DinoVisionTransformer(**SMALL)
