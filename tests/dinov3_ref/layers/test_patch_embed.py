"""PatchEmbed against a product over cut-out patches in numpy, float64 (docs/spec.md 2.1)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dinov3_ref.layers import PatchEmbed
from tests.support.images.photographs import pixels


def by_hand(layer: PatchEmbed, x_BCHW: Tensor) -> NDArray[np.float64]:
    """[B,h,w,D]: every patch cut out, flattened as (channel, row, column), and multiplied."""
    x = x_BCHW.double().numpy()
    weight = layer.proj.weight.detach().double().numpy().reshape(layer.embed_dim, -1)
    assert layer.proj.bias is not None
    bias = layer.proj.bias.detach().double().numpy()
    (ph, pw), (H, W) = layer.patch_size, x.shape[2:]
    out = np.empty((x.shape[0], H // ph, W // pw, layer.embed_dim))
    for i in range(H // ph):
        for j in range(W // pw):
            patch = x[:, :, i * ph : (i + 1) * ph, j * pw : (j + 1) * pw]
            out[:, i, j] = patch.reshape(x.shape[0], -1) @ weight.T + bias
    return out


@pytest.mark.parametrize("patch_size", [16, 8, (8, 16)])
@pytest.mark.parametrize("size", [(48, 96), (80, 32)])
def test_patches_are_projected_row_by_row(patch_size: int | tuple[int, int], size: tuple[int, int]) -> None:
    layer = PatchEmbed(patch_size=patch_size, embed_dim=24, flatten_embedding=False).double()
    x = pixels(["chelsea", "coffee"], *size)
    with torch.no_grad():
        got = layer(x.double()).numpy()
    np.testing.assert_allclose(got, by_hand(layer, x), rtol=1e-10, atol=1e-12)


def test_flat_and_gridded_hold_the_same_tokens() -> None:
    x = pixels(["rocket"], 48, 80)
    gridded = PatchEmbed(embed_dim=8, flatten_embedding=False)
    flat = PatchEmbed(embed_dim=8)  # flat is the layer's default; the ViT asks for the grid
    flat.load_state_dict(gridded.state_dict())
    with torch.no_grad():
        assert flat(x).shape == (1, 15, 8)
        assert gridded(x).shape == (1, 3, 5, 8)
        assert torch.equal(flat(x), gridded(x).flatten(1, 2))


@pytest.mark.parametrize("size", [(63, 95), (48, 81), (62, 80)])
def test_the_right_and_bottom_remainder_is_ignored(size: tuple[int, int]) -> None:
    layer = PatchEmbed(embed_dim=8)
    x = pixels(["china"], *size)
    whole = x[:, :, : size[0] // 16 * 16, : size[1] // 16 * 16]
    assert torch.equal(layer(x), layer(whole))


def test_norm_is_over_the_channels_of_a_token() -> None:
    layer = PatchEmbed(embed_dim=8, norm_layer=nn.LayerNorm, flatten_embedding=False)
    with torch.no_grad():
        out = layer(pixels(["coffee"], 32, 64))
    assert torch.allclose(out.mean(-1), torch.zeros(1, 2, 4), atol=1e-6)
    assert torch.allclose(out.var(-1, unbiased=False), torch.ones(1, 2, 4), atol=1e-3)


@pytest.mark.parametrize(("in_chans", "patch_size", "bound"), [(3, 16, 1 / math.sqrt(768)), (4, 8, 1 / 16)])
def test_initial_weights_fill_their_range(in_chans: int, patch_size: int, bound: float) -> None:
    torch.manual_seed(0)
    layer = PatchEmbed(patch_size=patch_size, in_chans=in_chans, embed_dim=64)
    nn.init.zeros_(layer.proj.weight)
    layer.reset_parameters()
    assert layer.proj.bias is not None
    for parameter in (layer.proj.weight, layer.proj.bias):
        assert 0.9 * bound < float(parameter.detach().abs().max()) <= bound
    assert abs(float(layer.proj.weight.detach().mean())) < 0.02 * bound


def test_attributes_of_the_official_layer() -> None:
    layer = PatchEmbed(img_size=(224, 448), patch_size=16, in_chans=3, embed_dim=8)
    assert layer.img_size == (224, 448)
    assert layer.patch_size == (16, 16)
    assert layer.patches_resolution == (14, 28)
    assert layer.num_patches == 392
    assert (layer.in_chans, layer.embed_dim) == (3, 8)
    assert isinstance(layer.norm, nn.Identity)
    assert sorted(layer.state_dict()) == ["proj.bias", "proj.weight"]
