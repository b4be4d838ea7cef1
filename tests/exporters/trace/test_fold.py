"""Meta copies: folding moves constants without changing outputs; weights are made only on request."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dinodeploy.arrays import AnyArray
from dinodeploy.errors import ExportError
from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.layers import LayerScale, SelfAttention
from dinov3_ref.models import DinoVisionTransformer
from exporters.trace.custom_ops import TracedAttention
from exporters.trace.fold import FOLDS, MIDDLE, UNIT, fold_normalisation, make_meta_copy
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_config, tiny_convnext

SUBSETS = [subset for count in range(len(FOLDS) + 1) for subset in combinations(FOLDS, count)]


def materialise(meta_copy: DinoVisionTransformer, weights: dict) -> DinoVisionTransformer:
    """The meta copy with real weights, so that it can run."""
    wanted = meta_copy.state_dict().keys()
    meta_copy.load_state_dict({name: weights[name]() for name in wanted}, strict=True, assign=True)
    return meta_copy


def tokens(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        features = model(x, is_training=True)
    return torch.cat([features["x_norm_clstoken"][:, None], features["x_norm_patchtokens"]], dim=1)


@pytest.mark.parametrize("kind", ["mlp", "swiglu", "7b"])
@pytest.mark.parametrize("folds", SUBSETS, ids="+".join)
def test_every_combination_of_folds_gives_the_same_outputs(kind: str, folds: tuple[str, ...]) -> None:
    model = build_model(random_checkpoint(tiny_config(kind)))
    x = pixels(["chelsea"], 48, 80)
    wanted = tokens(model, x)
    got = tokens(materialise(*make_meta_copy(model, folds)), x)
    assert torch.dist(got, wanted) / wanted.norm() < 2e-6  # measured 6e-7


def test_folded_parts_are_removed() -> None:
    model = build_model(random_checkpoint(tiny_config()))
    meta_copy, weights = make_meta_copy(model)
    assert not any(isinstance(module, LayerScale) for module in meta_copy.modules())
    assert not [name for name in weights if "gamma" in name or "bias_mask" in name or "qkv" in name]
    assert all(block.attn.scale == 1.0 for block in meta_copy.blocks)
    assert all(block.attn.k.bias is None for block in meta_copy.blocks), "k's bias is masked: nothing to add"
    unfolded, _ = make_meta_copy(model, ())
    assert any(isinstance(module, LayerScale) for module in unfolded.modules())
    assert all(block.attn.scale == model.blocks[0].attn.scale for block in unfolded.blocks)


def test_an_unmasked_k_bias_is_kept() -> None:
    """RoPE makes the softmax see k's bias, so it may only go when it is zero."""
    model = build_model(random_checkpoint(tiny_config(mask_k_bias=False)))
    meta_copy, weights = make_meta_copy(model)
    assert all(block.attn.k.bias is not None for block in meta_copy.blocks)
    x = pixels(["coffee"], 48, 64)
    wanted = tokens(model, x)
    assert torch.dist(tokens(materialise(meta_copy, weights), x), wanted) / wanted.norm() < 2e-6


def test_the_meta_copy_holds_no_memory_and_the_model_is_unchanged() -> None:
    model = build_model(random_checkpoint(tiny_config()))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    meta_copy, weights = make_meta_copy(model)
    assert {tensor.device.type for tensor in meta_copy.state_dict().values()} == {"meta"}
    for make in weights.values():
        make()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert type(model.blocks[0].attn) is SelfAttention


def test_unfolded_weights_are_the_models_own_tensors() -> None:
    """Not copies: otherwise a 7B model would be in memory twice."""
    model = build_model(random_checkpoint(tiny_config()))
    _, weights = make_meta_copy(model)
    assert weights["blocks.0.mlp.fc1.weight"]().data_ptr() == model.blocks[0].mlp.fc1.weight.data_ptr()


class Identity(SelfAttention):
    """A user's own attention (docs/development/seed.md S35)."""

    def compute_attention(self, qkv: Tensor, attn_bias: Tensor | None = None, rope: object = None) -> Tensor:
        return qkv[..., : self.qkv.in_features]


def test_a_users_attention_class_is_traced_as_it_is() -> None:
    torch.manual_seed(0)
    config = tiny_config().kwargs()
    model = DinoVisionTransformer(**config, attn_class=Identity).eval()
    meta_copy, weights = make_meta_copy(model)
    assert not any(isinstance(module, TracedAttention) for module in meta_copy.modules())
    x = pixels(["coffee"], 48, 64)
    wanted = tokens(model, x)
    assert torch.dist(tokens(materialise(meta_copy, weights), x), wanted) / wanted.norm() < 2e-6


# ---- bytes in place of normalised pixels -----------------------------------------------------------

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def stem_of(kind: str) -> tuple[Any, str]:
    if kind == "convnext":
        return build_model(random_checkpoint(tiny_convnext())), "downsample_layers.0.0"
    return build_model(random_checkpoint(tiny_config())), "patch_embed.proj"


def convolved(x_BCHW: AnyArray, weight: AnyArray, bias: AnyArray) -> AnyArray:
    """A convolution without overlap and padding, in float64."""
    k = weight.shape[-1]
    b, c, height, width = x_BCHW.shape
    patches = x_BCHW.reshape(b, c, height // k, k, width // k, k)
    return np.einsum("bchiwj,ocij->bohw", patches, weight) + bias[:, None, None]


@pytest.mark.parametrize("kind", ["vit", "convnext"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_mean_and_std_go_into_the_first_convolution(kind: str, has_bias: bool) -> None:
    model, name = stem_of(kind)
    stem = model.get_submodule(name)
    if not has_bias:
        stem.bias = None
    weight, bias = (
        t.detach().double().numpy() if t is not None else np.zeros(1) for t in (stem.weight, stem.bias)
    )
    grey = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 64)).astype(np.float64)
    mean, std = (np.array(triple)[:, None, None] for triple in (MEAN, STD))
    wanted = convolved((grey / 255 - mean) / std, weight, bias)
    meta_copy, weights = make_meta_copy(model)
    fold_normalisation(meta_copy, weights, MEAN, STD)
    made = [weights[f"{name}.{part}"]() for part in ("weight", "bias")]
    assert {tensor.dtype for tensor in made} == {torch.float32}
    got = convolved((grey - 128) / 64, *(tensor.double().numpy() for tensor in made))
    assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 1e-7  # measured 3e-8: weights in fp32
    assert meta_copy.get_submodule(name).bias is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_hold_what_bytes_become(dtype: torch.dtype) -> None:
    u = (torch.arange(256, dtype=torch.float64) - MIDDLE) / UNIT
    assert torch.equal(u.to(dtype).double(), u)


def test_a_first_layer_that_pads_is_refused() -> None:
    """What it pads with is 0, black in bytes and the mean in normalised pixels."""
    meta_copy, weights = make_meta_copy(build_model(random_checkpoint(tiny_config())))
    meta_copy.patch_embed.proj.padding = (1, 1)
    with pytest.raises(ExportError, match="is no plain convolution of 3 channels"):
        fold_normalisation(meta_copy, weights, MEAN, STD)
    meta_copy.patch_embed.proj.padding = (0, 0)
    with pytest.raises(ExportError, match="of 4 channels"):
        fold_normalisation(meta_copy, weights, (*MEAN, 0.5), (*STD, 0.5))
