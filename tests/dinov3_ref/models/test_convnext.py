"""ConvNeXt: the released ones by number, and what the official class does (docs/spec.md 2.19).

Source: docs/spec.md 1.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dinov3_ref import models
from dinov3_ref.checkpoints import build_model as build_from_checkpoint
from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from dinov3_ref.configs import get_default_config
from dinov3_ref.errors import ConfigError
from dinov3_ref.models import (
    ConvNeXt,
    ConvNeXtConfig,
    build_model,
    build_model_for_eval,
    find_released,
    get_architecture,
    named_blocks,
    stride_of,
)
from dinov3_ref.models.convnext import Block, DropPath, LayerNorm
from dinov3_ref.models.released import CONVNEXTS
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_convnext

# size: depths, dims, parameters, state-dict entries, first digits of the file's SHA-256; from
# docs/spec.md 1.4
SPEC_1_4 = {
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768), 27_820_128, 182, "21b726bb"),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768), 49_454_688, 344, "296db49d"),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024), 87_566_464, 344, "801f2ba9"),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536), 196_230_336, 344, "61fa432d"),
}


@pytest.fixture(scope="module")
def model() -> Any:
    return build_from_checkpoint(random_checkpoint(tiny_convnext()))


# ---- the released ones ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", SPEC_1_4)
def test_a_released_model(size: str) -> None:
    depths, dims, params, entries, hash_prefix = SPEC_1_4[size]
    row = find_released(f"dinov3_convnext_{size}")
    assert row is not None
    model = getattr(models, row.arch)(device="meta")
    assert tuple(len(stage) for stage in model.stages) == depths
    assert tuple(model.embed_dims) == dims
    assert sum(parameter.numel() for parameter in model.parameters()) == row.params == params
    assert len(model.state_dict()) == row.entries == entries
    assert row.config == get_architecture(f"convnext_{size}")
    assert row.file_stem == f"dinov3_convnext_{size}_pretrain_lvd1689m-{hash_prefix}"
    for name in (
        f"convnext_{size}",
        f"facebook/dinov3-convnext-{size}-pretrain-lvd1689m",
        f"convnext_{size}.dinov3_lvd1689m",
        row.file_stem,
    ):
        assert find_released(name) is row
    assert find_released(f"convnext_{size}", "sat493m") is None


def test_attributes_are_the_official_ones(model: ConvNeXt) -> None:
    assert (model.embed_dim, model.n_blocks, model.n_storage_tokens) == (128, 4, 0)
    assert (model.patch_size, model.input_pad_size, model.embed_dims) == (None, 4, [32, 64, 96, 128])
    assert model.norms[3] is model.norm
    assert all(isinstance(norm, nn.Identity) for norm in (*model.norms[:3], model.head))
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-6}
    assert stride_of(model) == 32
    assert [path for path, _ in named_blocks(model)][:3] == ["stages.0.0", "stages.1.0", "stages.2.0"]


def test_weights_are_initialised() -> None:
    torch.manual_seed(0)
    model = ConvNeXt(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128), layer_scale_init_value=1e-3)
    block: Any = model.stages[1][0]
    assert block.gamma.unique().tolist() == pytest.approx([1e-3])
    assert block.pwconv1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(layer.bias.any() for layer in (block.dwconv, block.pwconv1, block.pwconv2, block.norm))
    assert (block.norm.weight == 1).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depths": (3, 3, 9)}, "depths is [3, 3, 9]; wanted 4 positive integers, one per stage"),
        ({"dims": (96, 192, 0, 768)}, "dims is [96, 192, 0, 768]; wanted 4"),
        ({"in_chans": 0}, "in_chans is 0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
    ],
)
def test_a_configuration_of_no_model_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ConvNeXtConfig(**change)
    assert words in str(caught.value)


def test_a_configuration_survives_json() -> None:
    for config in CONVNEXTS.values():
        data = {
            key: list(value) if isinstance(value, tuple) else value for key, value in config.kwargs().items()
        }
        assert ConvNeXtConfig.from_dict(data) == config
    with pytest.raises(ConfigError, match="unknown model option 'depth'; known: depths, dims"):
        ConvNeXtConfig.from_dict({"depth": 3})


# ---- parts ---------------------------------------------------------------------------------------


def test_channels_first_norm_is_a_turned_layer_norm() -> None:
    torch.manual_seed(0)
    norm = LayerNorm(6, data_format="channels_first")
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 + 5 * torch.randn(2, 6, 4, 3)
    wanted = F.layer_norm(x.movedim(1, -1), (6,), norm.weight, norm.bias, 1e-6).movedim(-1, 1)
    torch.testing.assert_close(norm(x), wanted)


def test_block_by_its_formula() -> None:
    torch.manual_seed(0)
    block = Block(8, layer_scale_init_value=0.5)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 8, 9, 5)
    y = F.conv2d(x, block.dwconv.weight, block.dwconv.bias, padding=3, groups=8).movedim(1, -1)
    y = F.layer_norm(y, (8,), block.norm.weight, block.norm.bias, 1e-6)
    y = F.gelu(y @ block.pwconv1.weight.T + block.pwconv1.bias)  # the exact one
    y = (y @ block.pwconv2.weight.T + block.pwconv2.bias) * block.gamma
    torch.testing.assert_close(block(x), x + y.movedim(-1, 1))


def test_drop_path_leaves_whole_samples_out() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 1, 1)
    out = drop.train()(x)
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (out[:, 0] == out[:, 1]).all()
    assert out.mean().item() == pytest.approx(1.0, abs=0.03)
    assert drop.eval()(x) is x


def test_drop_rates_rise_with_depth() -> None:
    model = ConvNeXt(depths=(1, 1, 2, 1), dims=(4, 4, 4, 4), drop_path_rate=0.4)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for _, block in named_blocks(model)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


# ---- features ------------------------------------------------------------------------------------


def test_features_have_a_vits_keys(model: ConvNeXt) -> None:
    x = pixels(["chelsea", "coffee"], 96, 160)
    with torch.no_grad():
        features = model(x, is_training=True)
    assert {key: tuple(value.shape) for key, value in features.items() if value is not None} == {
        "x_norm_clstoken": (2, 128),
        "x_storage_tokens": (2, 0, 128),
        "x_norm_patchtokens": (2, 15, 128),
        "x_prenorm": (2, 15, 128),
    }
    assert features["masks"] is None
    pooled = F.layer_norm(features["x_prenorm"].mean(1), (128,), model.norm.weight, model.norm.bias, 1e-6)
    torch.testing.assert_close(features["x_norm_clstoken"], pooled)
    with torch.no_grad():
        assert torch.equal(model(x), features["x_norm_clstoken"])


def test_lists_of_different_sizes(model: ConvNeXt) -> None:
    x = [pixels(["chelsea"], 64, 96), pixels(["coffee", "rocket"], 32, 64)]
    masks = [torch.zeros(1, 6, dtype=torch.bool), None]
    with torch.no_grad():
        together = model.forward_features(x, masks)
        apart = [model.forward_features(image) for image in x]
        assert torch.equal(model(x)[1], apart[1]["x_norm_clstoken"])
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(one["x_norm_patchtokens"], other["x_norm_patchtokens"])
    assert together[0]["masks"] is masks[0]
    with pytest.raises(ValueError, match="2 inputs with 1 masks"):
        model.forward_features_list(x, [None])


def test_intermediate_layers_are_stages(model: ConvNeXt) -> None:
    x = pixels(["chelsea"], 64, 96)
    with torch.no_grad():
        maps = model.run_stages(x)
        plain = model.get_intermediate_layers(x, n=4, reshape=True, norm=False)
        normed = model.get_intermediate_layers(x, n=[0, 3], return_class_token=True)
        features = model.forward_features(x)
    assert [tuple(m.shape) for m in plain] == [(1, 32, 16, 24), (1, 64, 8, 12), (1, 96, 4, 6), (1, 128, 2, 3)]
    assert all(torch.equal(one, other) for one, other in zip(plain, maps, strict=True))
    (first, first_cls), (last, last_cls) = normed
    assert torch.equal(first, maps[0].flatten(2).transpose(1, 2))  # norm does not touch it
    torch.testing.assert_close(first_cls, maps[0].mean((2, 3)))
    torch.testing.assert_close(last, features["x_norm_patchtokens"])
    torch.testing.assert_close(last_cls, features["x_norm_clstoken"])


def test_patch_size_resizes_intermediate_maps_alone(model: ConvNeXt) -> None:
    resizing = ConvNeXt(**(tiny_convnext().kwargs() | {"patch_size": 16})).eval()
    resizing.load_state_dict(model.state_dict())
    x = pixels(["chelsea"], 64, 96)
    with torch.no_grad():
        first, last = resizing.get_intermediate_layers(x, n=(0, 3), reshape=True, norm=False)
        assert first.shape[-2:] == last.shape[-2:] == (4, 6)
        wanted = F.interpolate(model.run_stages(x)[0], (4, 6), mode="bilinear", antialias=True)
        assert torch.equal(first, wanted)
        assert torch.equal(resizing(x), model(x))


@pytest.mark.parametrize("n", [0, 5, [4], [-1, 2], []])
def test_a_stage_that_does_not_exist(model: ConvNeXt, n: Any) -> None:
    with pytest.raises(ValueError, match=r"asks for stages outside 0\.\.3; the model has 4"):
        model.get_intermediate_layers(torch.zeros(1, 3, 32, 32), n=n)


# ---- from a configuration ------------------------------------------------------------------------


def convnext_config(**student: Any) -> Any:
    config = get_default_config()
    config.student.arch = "convnext_tiny"
    for name, value in student.items():
        setattr(config.student, name, value)
    return config


def test_a_configuration_decides_the_patch_size_alone() -> None:
    """Officially drop_path_rate does not reach a ConvNeXt (docs/spec.md 1.4)."""
    model: Any = build_model(convnext_config(patch_size=14, drop_path_rate=0.3), device="meta")
    assert isinstance(model, ConvNeXt)
    assert (model.patch_size, model.embed_dims) == (14, [96, 192, 384, 768])
    assert not any(isinstance(module, DropPath) for module in model.modules())


@pytest.mark.slow
def test_weights_for_evaluation(tmp_path: Any) -> None:
    checkpoint = random_checkpoint("convnext_tiny")
    path = save_checkpoint(checkpoint, "official", tmp_path / "convnext.pth")[0]
    model = build_model_for_eval(convnext_config(patch_size=16), path)
    assert model.patch_size == 16
    assert not model.training
    assert torch.equal(model.state_dict()["stages.2.8.gamma"], checkpoint.state["stages.2.8.gamma"])


def test_every_constructor_takes_options() -> None:
    for name in CONVNEXTS:
        build: Callable[..., ConvNeXt] = getattr(models, name)
        assert build.__name__ == name
        assert build(in_chans=6, device="meta").downsample_layers[0][0].weight.shape[1] == 6  # type: ignore[index]
