"""Snippets about replacing parts of a model (docs/development/seed.md, S35-S40).

That such models export is shown in tests/exporters/test_custom_models.py.
"""

# ruff: noqa: RET504  (lines of the document)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.layers.attention import SelfAttention
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from tests.compatibility.snippets import SMALL
from tests.support.images.photographs import pixels


class CustomAttention(SelfAttention):
    """S35; counts calls where the document has "custom processing"."""

    def __init__(self, *args: Any, custom_param: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.custom_param = custom_param
        self.calls = 0

    def compute_attention(self, qkv: Tensor, attn_bias: Any = None, rope: Any = None) -> Tensor:
        B, N, _ = qkv.shape
        C = self.qkv.in_features

        qkv = qkv.reshape(B, N, 3, self.num_heads, C // self.num_heads)
        _q, _k, v = torch.unbind(qkv, 2)

        self.calls += 1
        custom_output = v.reshape(B, N, C)
        return custom_output


def test_S35_custom_attention() -> None:
    """With the argument `attn_class`, which the published model lacks, or assigned to one block."""
    model = DinoVisionTransformer(**SMALL, attn_class=CustomAttention, drop_path_rate=0.5)
    x = pixels(["coffee", "china"], 32, 48)
    assert model.eval()(x).shape == (2, 64)
    assert model.train()(x).shape == (2, 64)
    assert [block.attn.calls for block in model.blocks] == [2, 2]  # type: ignore[union-attr]
    model.blocks[0].attn = CustomAttention(64, num_heads=2, custom_param=0.5)
    assert model.eval()(x).shape == (2, 64)


def test_S36_ffn_layers() -> None:
    from dinov3_ref.layers.ffn_layers import Mlp, SwiGLUFFN

    x = torch.ones(2, 5, 64)
    mlp, gated = Mlp(64, 256), SwiGLUFFN(64, 256)
    assert torch.equal(mlp(x), mlp.fc2(nn.functional.gelu(mlp.fc1(x))))
    assert torch.equal(gated(x), gated.w3(nn.functional.silu(gated.w1(x)) * gated.w2(x)))


def test_S37_ffn_layer_by_name() -> None:
    from dinov3_ref.layers.ffn_layers import Mlp, SwiGLUFFN

    assert isinstance(DinoVisionTransformer(**SMALL, ffn_layer="mlp").blocks[0].mlp, Mlp)
    # two thirds of 4·64, aligned to 8 by default
    widths = {"swiglu": 176, "swiglu32": 192, "swiglu64": 192, "swiglu128": 256}
    for name, width in widths.items():
        mlp = DinoVisionTransformer(**SMALL, ffn_layer=name).blocks[0].mlp
        assert isinstance(mlp, SwiGLUFFN)
        assert mlp.w1.out_features == width


class CustomFFN(nn.Module):
    """S38, as written."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Any = nn.GELU,
        drop: float = 0.0,
        bias: bool = True,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features, bias=bias, device=device)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features, bias=bias, device=device)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = self.act(x)
        x = self.drop(x)
        x = self.fc2(x)
        x = self.drop(x)
        return x


@pytest.fixture
def registered() -> Iterator[None]:
    from dinov3_ref.models.vision_transformer import ffn_layer_dict

    ffn_layer_dict["custom"] = CustomFFN
    yield
    del ffn_layer_dict["custom"]


@pytest.mark.usefixtures("registered")
def test_S38_custom_ffn() -> None:
    """Also in drop-path training, where the published blocks need a list forward."""
    model = DinoVisionTransformer(**SMALL, ffn_layer="custom", drop_path_rate=0.3)
    assert isinstance(model.blocks[1].mlp, CustomFFN)
    x = pixels(["coffee", "china"], 32, 48)
    assert model.eval()(x).shape == (2, 64)
    local = pixels(["coffee", "china"], 16, 32)
    assert [out.shape for out in model.train()([x, local])] == [(2, 64), (2, 64)]


class AbsolutePositionEmbedding(nn.Module):
    """S39, as written; also in `dinov3_ref.layers`."""

    def __init__(self, num_patches: int, embed_dim: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches, embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos_embed


class AbsoluteVisionTransformer(DinoVisionTransformer):
    """S39: `__init__` replaces `self.rope_embed`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rope_embed = AbsolutePositionEmbedding(num_patches=6, embed_dim=self.embed_dim)  # type: ignore


def test_S39_absolute_positions() -> None:
    """Added to the patches once; `init_weights` keeps it; other image sizes are an error."""
    from dinov3_ref import layers

    model = AbsoluteVisionTransformer(**SMALL, n_storage_tokens=4).eval()
    x = pixels(["coffee"], 32, 48)  # six patches
    before = model.rope_embed.pos_embed.detach().clone()  # type: ignore[union-attr]
    model.init_weights()
    assert torch.equal(model.rope_embed.pos_embed, before)  # type: ignore[union-attr, arg-type]
    tokens, _ = model.prepare_tokens_with_masks(x)
    torch.testing.assert_close(tokens[:, 5:], model.patch_embed(x).flatten(1, 2) + before)

    # without positions, permuting patches only permutes outputs; with them, CLS changes
    swapped = torch.cat([x[..., 16:32], x[..., :16], x[..., 32:]], dim=-1)
    assert not torch.allclose(model(x), model(swapped), atol=1e-6)
    model.rope_embed = None  # type: ignore[assignment]
    model.init_weights()
    torch.testing.assert_close(model(x), model(swapped), atol=1e-6, rtol=0)

    model.rope_embed = layers.AbsolutePositionEmbedding(6, 64)  # type: ignore[assignment]
    assert model(x).shape == (1, 64)
    for height, width in ((48, 48), (16, 16)):
        with pytest.raises(ValueError, match=r"AbsolutePositionEmbedding .*keep RoPE"):
            model(pixels(["coffee"], height, width))


class CustomTokensVisionTransformer(DinoVisionTransformer):
    """S40: three more tokens, inserted where the document does it."""

    def __init__(self, num_custom_tokens: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.custom_tokens = nn.Parameter(torch.zeros(1, num_custom_tokens, self.embed_dim))
        nn.init.normal_(self.custom_tokens, std=0.02)

    def prepare_tokens_with_masks(
        self, x: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        x, grid = super().prepare_tokens_with_masks(x, masks)
        B, prefix = x.shape[0], 1 + self.n_storage_tokens
        cls_and_storage_tokens, patch_tokens = x[:, :prefix], x[:, prefix:]
        x = torch.cat(
            [
                cls_and_storage_tokens,
                self.custom_tokens.expand(B, -1, -1),
                patch_tokens,
            ],
            dim=1,
        )
        return x, grid


def test_S40_extra_tokens() -> None:
    """Separate from patches everywhere; the published code treats them as patches and fails to reshape."""
    model = CustomTokensVisionTransformer(**SMALL, n_storage_tokens=4).eval()
    x = pixels(["coffee"], 48, 80)
    features = model(x, is_training=True)
    shapes = {name: value.shape[1] for name, value in features.items() if name.startswith("x_")}
    assert (shapes["x_storage_tokens"], shapes["x_extra_tokens"]) == (4, 3)
    assert (shapes["x_norm_patchtokens"], shapes["x_prenorm"]) == (15, 23)
    torch.testing.assert_close(features["x_norm_patchtokens"], model.norm(features["x_prenorm"][:, 8:]))
    ((maps, cls, extra),) = model.get_intermediate_layers(
        x, n=1, reshape=True, return_class_token=True, return_extra_tokens=True
    )
    assert (maps.shape, cls.shape, extra.shape) == ((1, 64, 3, 5), (1, 64), (1, 7, 64))
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), features["x_norm_patchtokens"])
    model.custom_tokens.data += torch.linspace(-1, 1, 64)
    assert not torch.allclose(model(x), cls), "the other tokens see them"
