"""Snippets about the model's methods and sizes (docs/development/seed.md, S18-S27)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dinov3_ref import models
from dinov3_ref.models import vit_base, vit_giant2, vit_large, vit_small
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from tests.compatibility.snippets import SMALL
from tests.support.images.photographs import pixels

SIZE = (48, 80)  # a grid of 3x5


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def dimensions(model: DinoVisionTransformer) -> tuple[int, int, int, int]:
    """embed_dim, depth, heads, FFN ratio."""
    hidden = model.blocks[0].mlp.fc1.out_features  # type: ignore[union-attr]
    return model.embed_dim, model.n_blocks, model.num_heads, hidden // model.embed_dim


def test_S18_prepare_tokens_with_masks() -> None:
    model = DinoVisionTransformer(**SMALL, n_storage_tokens=4)
    nn.init.ones_(model.mask_token)
    x = pixels(["coffee"], *SIZE)
    masks = torch.zeros(1, 15, dtype=torch.bool)
    masks[0, 7] = True
    tokens, hw_tuple = model.prepare_tokens_with_masks(x, masks)
    assert tokens.shape == (1, 1 + 4 + 15, 64)
    assert hw_tuple == (3, 5)
    plain, _ = model.prepare_tokens_with_masks(x)
    assert (tokens != plain).any(dim=-1).nonzero().tolist() == [[0, 5 + 7]]
    assert tokens[0, 5 + 7].eq(1).all()
    assert torch.equal(tokens[:, :1], model.cls_token)
    assert torch.equal(tokens[:, 1:5], model.storage_tokens)


def test_S19_forward_features() -> None:
    """A list gives a list of dicts, as in the document; a tensor gives one dict, which the snippets use."""
    model = DinoVisionTransformer(**SMALL, n_storage_tokens=4).eval()
    x = pixels(["coffee"], *SIZE)
    alone = model.forward_features(x, masks=None)
    listed = model.forward_features([x, x])
    assert isinstance(alone, dict)
    assert isinstance(listed, list)
    for features in listed:
        torch.testing.assert_close(features["x_norm_patchtokens"], alone["x_norm_patchtokens"])


def test_S20_keys_of_the_features() -> None:
    model = DinoVisionTransformer(**SMALL, n_storage_tokens=4)
    masks = torch.zeros(1, 15, dtype=torch.bool)
    features = model.forward_features(pixels(["coffee"], *SIZE), masks=masks)
    assert features.pop("masks") is masks
    assert {key: value.shape for key, value in features.items()} == {
        "x_norm_clstoken": (1, 64),
        "x_storage_tokens": (1, 4, 64),
        "x_norm_patchtokens": (1, 15, 64),
        "x_prenorm": (1, 20, 64),
    }


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("n", [1, 2, [0], [1, 0]])
def test_S21_get_intermediate_layers(n: Any, norm: bool) -> None:
    """All arguments; entries are (patches, cls, storage), blocks in ascending order."""
    model = DinoVisionTransformer(**SMALL, n_storage_tokens=4).eval()
    x = pixels(["coffee"], *SIZE)
    layers = model.get_intermediate_layers(
        x, n=n, reshape=True, return_class_token=True, return_extra_tokens=True, norm=norm
    )
    assert len(layers) == (n if isinstance(n, int) else len(n))
    for patches, cls, storage in layers:
        assert (patches.shape, cls.shape, storage.shape) == ((1, 64, 3, 5), (1, 64), (1, 4, 64))
    flat = model.get_intermediate_layers(x, n=n, norm=norm)
    for patches, (maps, _, _) in zip(flat, layers, strict=True):
        torch.testing.assert_close(patches, maps.flatten(2).transpose(1, 2))
    if norm and n != [0]:
        torch.testing.assert_close(layers[-1][1], model(x))


def test_S22_forward() -> None:
    """All features with is_training, otherwise CLS; a list (refused by the published code) gives a list."""
    model = DinoVisionTransformer(**SMALL).eval()
    x = pixels(["coffee"], *SIZE)
    cls = model.forward(x, is_training=False)
    assert cls.shape == (1, 64)
    assert torch.equal(model.forward(x, is_training=True)["x_norm_clstoken"], cls)
    assert [out.shape for out in model([x, x])] == [(1, 64), (1, 64)]


def test_S23_vit_small() -> None:
    model = vit_small(patch_size=16, device="meta")
    assert dimensions(model) == (384, 12, 6, 4)
    assert round(count(model) / 1e6) == 22


def test_S24_vit_base() -> None:
    model = vit_base(patch_size=16, device="meta")
    assert dimensions(model) == (768, 12, 12, 4)
    assert round(count(model) / 1e6) == 86


def test_S25_vit_large() -> None:
    """The document says about 304 million parameters; there are 303."""
    model = vit_large(patch_size=16, device="meta")
    assert dimensions(model) == (1024, 24, 16, 4)
    assert round(count(model) / 1e6) == 303


def test_S26_vit_giant2() -> None:
    model = vit_giant2(patch_size=16, device="meta")
    assert dimensions(model) == (1536, 40, 24, 4)
    assert round(count(model) / 1e9, 1) == 1.1


def test_S27_the_four_sizes_and_the_others() -> None:
    """The document's four, six more of the published code and releases, and ConvNeXts."""
    documented = {"vit_small", "vit_base", "vit_large", "vit_giant2"}
    others = {"vit_small_plus", "vit_large_plus", "vit_so400m", "vit_huge2", "vit_huge_plus", "vit_7b"}
    vits = {name for name in models.ARCHITECTURES if name.startswith("vit_")}
    assert documented | others == vits
    sizes = [count(getattr(models, name)(device="meta")) for name in sorted(documented | others)]
    assert all(sizes)
