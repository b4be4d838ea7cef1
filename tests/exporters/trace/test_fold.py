"""Meta copies: folding moves constants without changing outputs; weights are made only on request."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.layers import LayerScale, SelfAttention
from dinov3_ref.models import DinoVisionTransformer
from exporters.trace.custom_ops import TracedAttention
from exporters.trace.fold import FOLDS, make_meta_copy
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_config

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
