"""The seed document's model, with `dinov3` read as `dinov3_ref` (SEED S01-S27, SPEC 8.1).

Signatures, names and attributes are the document's own. Big models run as small twins, or on the meta device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dinov3_ref.layers.attention import SelfAttention, rope_apply, rope_rotate_half
from dinov3_ref.layers.block import SelfAttentionBlock
from dinov3_ref.layers.dino_head import DINOHead
from dinov3_ref.layers.patch_embed import PatchEmbed
from dinov3_ref.layers.rope_position_encoding import RopePositionEmbedding
from dinov3_ref.models import vit_base, vit_giant2, vit_large, vit_small
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from tests.photographs import pixels

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# ---- the model class: S01-S03 -------------------------------------------------------------------


def test_s01_s02_s03_constructor_and_attributes() -> None:
    model = DinoVisionTransformer(
        img_size=224,
        patch_size=16,
        in_chans=3,
        embed_dim=64,
        depth=2,
        num_heads=2,
        ffn_ratio=4.0,
        qkv_bias=True,
        drop_path_rate=0.0,
        layerscale_init=None,
        norm_layer="layernorm",
        ffn_layer="mlp",
        n_storage_tokens=4,
        pos_embed_rope_base=100.0,
        pos_embed_rope_min_period=None,
        pos_embed_rope_max_period=None,
    )
    assert isinstance(model.patch_embed, PatchEmbed)
    assert model.cls_token.shape == (1, 1, 64)
    assert model.storage_tokens.shape == (1, 4, 64)
    assert isinstance(model.rope_embed, RopePositionEmbedding)
    assert isinstance(model.blocks, nn.ModuleList)
    assert isinstance(model.norm, nn.LayerNorm)
    assert isinstance(model.mask_token, nn.Parameter)


# ---- layers: S04-S17 ----------------------------------------------------------------------------


def test_s04_patch_embed() -> None:
    x = pixels(["coffee"], 32, 48)
    assert PatchEmbed(embed_dim=8, flatten_embedding=False)(x).shape == (1, 2, 3, 8)
    assert PatchEmbed(embed_dim=8, flatten_embedding=True)(x).shape == (1, 6, 8)


def test_s05_s06_rope_table() -> None:
    sin, cos = RopePositionEmbedding(64, num_heads=2)(H=3, W=5)
    assert sin.shape == cos.shape == (15, 32)  # the width is a head's, which the document calls D
    torch.testing.assert_close(sin.square() + cos.square(), torch.ones(15, 32))


def test_s07_s08_rope_apply_and_rotate_half() -> None:
    x = torch.arange(6.0)
    assert rope_rotate_half(x).tolist() == [-3, -4, -5, 0, 1, 2]
    sin, cos = torch.full((6,), 0.6), torch.full((6,), 0.8)
    assert torch.equal(rope_apply(x, sin, cos), (x * cos) + (rope_rotate_half(x) * sin))


def test_s09_s10_s11_self_attention() -> None:
    attention = SelfAttention(64, num_heads=2)
    x = torch.randn(2, 1 + 15, 64, generator=torch.Generator().manual_seed(0))
    rope = RopePositionEmbedding(64, num_heads=2)(H=3, W=5)
    assert attention.forward(x, attn_bias=None, rope=rope).shape == (2, 16, 64)
    qkv = attention.qkv(x)
    attended = attention.compute_attention(qkv=qkv, attn_bias=None, rope=rope)
    q, k, v = (t.transpose(1, 2) for t in qkv.reshape(2, 16, 3, 2, 32).unbind(2))
    q, k = attention.apply_rope(q, k, rope)
    weights = torch.softmax(q @ k.transpose(-2, -1) / 32**0.5, dim=-1)  # Attention(Q, K, V)
    torch.testing.assert_close(attended, (weights @ v).transpose(1, 2).reshape(2, 16, 64))


def test_s12_s13_s14_block() -> None:
    block = SelfAttentionBlock(64, num_heads=2, init_values=1e-5, drop_path=0.5)
    assert [name for name, _ in block.named_children()] == ["norm1", "attn", "ls1", "norm2", "mlp", "ls2"]
    x, y = torch.zeros(2, 5, 64), torch.zeros(4, 3, 64)
    assert block(x).shape == x.shape
    assert [out.shape for out in block([x, y], [None, None])] == [x.shape, y.shape]
    assert [out.shape for out in block.eval()([x, y])] == [x.shape, y.shape]


def test_s15_s16_s17_dino_head() -> None:
    head = DINOHead(
        in_dim=64, out_dim=100, use_bn=False, nlayers=3, hidden_dim=32, bottleneck_dim=16, mlp_bias=True
    )
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    normed = head(x, no_last_layer=True)
    torch.testing.assert_close(normed.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(head(x), head(normed, only_last_layer=True))
    kinds = [type(layer).__name__ for layer in head.mlp.children()]
    assert kinds == ["Linear", "GELU", "Linear", "GELU", "Linear"]


# ---- methods: S18-S22 ---------------------------------------------------------------------------


def test_s18_prepare_tokens_with_masks() -> None:
    model = DinoVisionTransformer(**SMALL, n_storage_tokens=4)
    masks = torch.zeros(1, 15, dtype=torch.bool)
    tokens, hw_tuple = model.prepare_tokens_with_masks(pixels(["coffee"], 48, 80), masks)
    assert tokens.shape == (1, 1 + 4 + 15, 64)
    assert hw_tuple == (3, 5)


def test_s19_s20_forward_features() -> None:
    model = DinoVisionTransformer(**SMALL, n_storage_tokens=4)
    x = pixels(["coffee"], 48, 80)
    for features in [model.forward_features(x, masks=None), *model.forward_features([x, x])]:
        assert {key: features[key].shape for key in features if key != "masks"} == {
            "x_norm_clstoken": (1, 64),
            "x_storage_tokens": (1, 4, 64),
            "x_norm_patchtokens": (1, 15, 64),
            "x_prenorm": (1, 20, 64),
        }


def test_s21_get_intermediate_layers() -> None:
    model = DinoVisionTransformer(**SMALL, n_storage_tokens=4)
    ((patches, cls, storage),) = model.get_intermediate_layers(
        pixels(["coffee"], 48, 80),
        n=1,
        reshape=True,
        return_class_token=True,
        return_extra_tokens=True,
        norm=True,
    )
    assert (patches.shape, cls.shape, storage.shape) == ((1, 64, 3, 5), (1, 64), (1, 4, 64))


def test_s22_forward() -> None:
    model = DinoVisionTransformer(**SMALL)
    x = pixels(["coffee"], 48, 80)
    assert model.forward(x, is_training=False).shape == (1, 64)
    assert model.forward(x, is_training=True)["x_norm_patchtokens"].shape == (1, 15, 64)


@pytest.mark.parametrize(
    ("build", "dims", "million"),
    [
        (vit_small, (384, 12, 6), 22),
        (vit_base, (768, 12, 12), 86),
        (vit_large, (1024, 24, 16), 303),  # "about 304" in the document
        (vit_giant2, (1536, 40, 24), 1134),
    ],
)
def test_s23_to_s27_sizes(build: Any, dims: tuple[int, int, int], million: int) -> None:
    model = build(patch_size=16, device="meta")
    assert (model.embed_dim, model.n_blocks, model.num_heads) == dims
    assert round(count(model) / 1e6) == million
