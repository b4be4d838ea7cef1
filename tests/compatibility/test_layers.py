"""Snippets about the model class and its layers (docs/development/seed.md, S01-S17)."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from dinov3_ref.layers.attention import SelfAttention, rope_apply, rope_rotate_half
from dinov3_ref.layers.block import SelfAttentionBlock
from dinov3_ref.layers.dino_head import DINOHead
from dinov3_ref.layers.layer_scale import LayerScale
from dinov3_ref.layers.patch_embed import PatchEmbed
from dinov3_ref.layers.rope_position_encoding import RopePositionEmbedding
from dinov3_ref.models.released import ARCHITECTURES
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from tests.compatibility.snippets import SMALL, draw
from tests.support.images.photographs import pixels


def test_S01_constructor_and_its_defaults() -> None:
    """Keyword arguments only, as published, and eleven more than in the document."""
    documented = {
        "img_size": 224,
        "patch_size": 16,
        "in_chans": 3,
        "embed_dim": 768,
        "depth": 12,
        "num_heads": 12,
        "ffn_ratio": 4.0,
        "qkv_bias": True,
        "drop_path_rate": 0.0,
        "layerscale_init": None,
        "norm_layer": "layernorm",
        "ffn_layer": "mlp",
        "n_storage_tokens": 0,
        "pos_embed_rope_base": 100.0,
        "pos_embed_rope_min_period": None,
        "pos_embed_rope_max_period": None,
    }
    signature = inspect.signature(DinoVisionTransformer)
    assert {name: signature.parameters[name].default for name in documented} == documented
    model = DinoVisionTransformer(**{**documented, **SMALL})
    assert model(pixels(["coffee"], 48, 80)).shape == (1, 64)


def test_S02_attributes() -> None:
    """`storage_tokens` exists only if the model has some; `mask_token` is [1, D]."""
    model = DinoVisionTransformer(**SMALL, n_storage_tokens=4)
    assert isinstance(model.patch_embed, PatchEmbed)
    assert model.cls_token.shape == (1, 1, 64)
    assert model.storage_tokens.shape == (1, 4, 64)
    assert isinstance(model.rope_embed, RopePositionEmbedding)
    assert isinstance(model.blocks, nn.ModuleList)
    assert isinstance(model.norm, nn.LayerNorm)
    assert model.mask_token.shape == (1, 64)


def test_S03_norm_layer() -> None:
    """The default is "layernorm" (eps 1e-6); every released model has "layernormbf16" (eps 1e-5)."""
    assert DinoVisionTransformer(**SMALL).norm.eps == 1e-6
    assert DinoVisionTransformer(**SMALL, norm_layer="layernormbf16").norm.eps == 1e-5
    vits = [config for name, config in ARCHITECTURES.items() if name.startswith("vit_")]
    assert {config.norm_layer for config in vits} == {"layernormbf16"}


def test_S04_patch_embed() -> None:
    x = pixels(["coffee"], 32, 48)
    maps = PatchEmbed(embed_dim=8, flatten_embedding=False)
    assert isinstance(maps.proj, nn.Conv2d)
    assert maps.proj.kernel_size == maps.proj.stride == (16, 16)
    assert maps(x).shape == (1, 2, 3, 8)
    assert PatchEmbed(embed_dim=8, flatten_embedding=True)(x).shape == (1, 6, 8)


def test_S05_rope_table() -> None:
    """[HW, D] in the document, where D is head_dim."""
    sin, cos = RopePositionEmbedding(64, num_heads=2)(H=3, W=5)
    assert sin.shape == cos.shape == (15, 32)
    torch.testing.assert_close(sin.square() + cos.square(), torch.ones(15, 32))


def test_S06_coordinates_from_minus_one_to_one() -> None:
    """Coordinates of patch centres end at ±(1 - 1/H); with period 1 the angle is 2π times the coordinate."""
    sin, cos = RopePositionEmbedding(64, num_heads=2)(H=4, W=2)
    rows = torch.tensor([-0.75, -0.25, 0.25, 0.75]).repeat_interleave(2)
    columns = torch.tensor([-0.5, 0.5]).repeat(4)
    for place, coordinate in ((0, rows), (8, columns)):
        torch.testing.assert_close(sin[:, place], torch.sin(2 * torch.pi * coordinate))
        torch.testing.assert_close(cos[:, place], torch.cos(2 * torch.pi * coordinate))


def test_S07_rope_apply() -> None:
    x, sin, cos = draw(5, 6), torch.full((6,), 0.6), torch.full((6,), 0.8)
    assert torch.equal(rope_apply(x, sin, cos), (x * cos) + (rope_rotate_half(x) * sin))
    torch.testing.assert_close(rope_apply(x, sin, cos).norm(dim=-1), x.norm(dim=-1))


def test_S08_rope_rotate_half() -> None:
    assert rope_rotate_half(torch.arange(6.0)).tolist() == [-3, -4, -5, 0, 1, 2]


def test_S09_self_attention() -> None:
    """`attn_bias` must be None, as published."""
    attention = SelfAttention(64, num_heads=2)
    x, rope = draw(2, 1 + 15, 64), RopePositionEmbedding(64, num_heads=2)(H=3, W=5)
    assert attention.forward(x, attn_bias=None, rope=rope).shape == (2, 16, 64)
    with pytest.raises(ValueError, match="attn_bias"):
        attention(x, attn_bias=torch.zeros(16, 16))


def test_S10_compute_attention_is_softmax_of_q_k() -> None:
    """Attention(Q, K, V) = softmax(QKᵀ / √d_k) V, step by step as in the document."""
    attention = SelfAttention(64, num_heads=2)
    x, rope = draw(2, 16, 64), RopePositionEmbedding(64, num_heads=2)(H=3, W=5)
    qkv = attention.qkv(x)
    attended = attention.compute_attention(qkv=qkv, attn_bias=None, rope=rope)

    B, N, _ = qkv.shape
    C = attention.qkv.in_features
    qkv = qkv.reshape(B, N, 3, attention.num_heads, C // attention.num_heads)
    q, k, v = torch.unbind(qkv, 2)
    q, k, v = (t.transpose(1, 2) for t in [q, k, v])  # [B, heads, N, head_dim]
    q, k = attention.apply_rope(q, k, rope)
    weights = torch.softmax(q @ k.transpose(-2, -1) / 32**0.5, dim=-1)
    torch.testing.assert_close(attended, (weights @ v).transpose(1, 2).reshape([B, N, C]))


def test_S11_apply_rope_leaves_the_prefix_alone() -> None:
    attention = SelfAttention(64, num_heads=2)
    q, k = draw(2, 2, 1 + 4 + 15, 32), draw(2, 2, 1 + 4 + 15, 32, seed=1)
    rope = RopePositionEmbedding(64, num_heads=2)(H=3, W=5)
    for given, turned in zip((q, k), attention.apply_rope(q, k, rope), strict=True):
        assert torch.equal(given[:, :, :5], turned[:, :, :5])
        torch.testing.assert_close(turned[:, :, 5:], rope_apply(given[:, :, 5:], *rope))


def test_S12_block_structure() -> None:
    """norm1, attention, LayerScale, +x, norm2, FFN, LayerScale, +x; LayerScale is optional."""
    block = SelfAttentionBlock(64, num_heads=2, init_values=0.5).eval()
    assert [name for name, _ in block.named_children()] == ["norm1", "attn", "ls1", "norm2", "mlp", "ls2"]
    x = draw(2, 5, 64)
    y = x + block.ls1(block.attn(block.norm1(x)))
    torch.testing.assert_close(block(x), y + block.ls2(block.mlp(block.norm2(y))))
    assert isinstance(block.ls1, LayerScale)
    assert isinstance(SelfAttentionBlock(64, num_heads=2).ls1, nn.Identity)


def test_S13_block_takes_a_tensor_or_a_list() -> None:
    """A tensor gives a tensor, a list a list."""
    block = SelfAttentionBlock(64, num_heads=2).eval()
    x, y = draw(2, 5, 64), draw(4, 3, 64)
    assert [out.shape for out in block([x, y], [None, None])] == [x.shape, y.shape]
    torch.testing.assert_close(block(x), block([x, y])[0])


def test_S14_drop_path() -> None:
    """Half of the rows run a branch, scaled by 2; the same rate in every block."""
    block = SelfAttentionBlock(64, num_heads=2, init_values=1.0, drop_path=0.5).train()
    nn.init.zeros_(block.ls2.gamma)
    torch.manual_seed(0)
    x = draw(8, 5, 64)
    moved = block(x) - x
    ran = moved.flatten(1).any(dim=1)
    assert int(ran.sum()) == 4
    torch.testing.assert_close(moved[ran], 2 * block.attn(block.norm1(x))[ran])


def test_S15_dino_head_constructor() -> None:
    head = DINOHead(
        in_dim=64, out_dim=100, use_bn=False, nlayers=3, hidden_dim=32, bottleneck_dim=16, mlp_bias=True
    )
    assert head(draw(5, 64)).shape == (5, 100)
    defaults = {name: p.default for name, p in inspect.signature(DINOHead).parameters.items()}
    assert defaults["use_bn"] is False
    assert (defaults["nlayers"], defaults["hidden_dim"], defaults["bottleneck_dim"]) == (3, 2048, 256)


def test_S16_dino_head_flags() -> None:
    head = DINOHead(in_dim=64, out_dim=100, hidden_dim=32, bottleneck_dim=16)
    x = draw(5, 64)
    normed = head(x, no_last_layer=True)
    torch.testing.assert_close(normed.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(head(x), head(normed, only_last_layer=True))


def test_S17_dino_head_diagram() -> None:
    """The last layer has no bias."""
    head = DINOHead(in_dim=64, out_dim=100, use_bn=True, nlayers=3, hidden_dim=32, bottleneck_dim=16)
    kinds = [type(layer).__name__ for layer in head.mlp.children()]
    assert kinds == ["Linear", "BatchNorm1d", "GELU", "Linear", "BatchNorm1d", "GELU", "Linear"]
    assert [(m.in_features, m.out_features) for m in head.mlp if isinstance(m, nn.Linear)] == [
        (64, 32),
        (32, 32),
        (32, 16),
    ]
    assert (head.last_layer.in_features, head.last_layer.out_features) == (16, 100)
    assert head.last_layer.bias is None
