"""LoRA layers: what they change, what they leave alone, and their options."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.adapt.lora import LoraLinear, LoraOptions, add_lora, lora_layers
from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.errors import ConfigError
from dinov3_ref.models import DinoVisionTransformer
from tests.support.tiny_models import tiny_config, tiny_convnext


def tiny() -> DinoVisionTransformer:
    model = build_model(random_checkpoint(tiny_config(depth=2, embed_dim=32, num_heads=1)))
    assert isinstance(model, DinoVisionTransformer)
    return model


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_first_step_is_bit_equal_to_the_frozen_model(dtype: torch.dtype | None) -> None:
    model = tiny()
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        before = model.get_intermediate_layers(pixels(), n=2)
        add_lora(model, LoraOptions(4))
        after = model.get_intermediate_layers(pixels(), n=2)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)


def test_only_the_chosen_thirds_change() -> None:
    torch.manual_seed(0)
    base = torch.nn.Linear(8, 12)
    layer = LoraLinear(base, (0, 2), LoraOptions(2))
    for b in layer.b:
        torch.nn.init.normal_(b)
    x = torch.randn(5, 8)
    change = layer(x) - base(x)
    wanted = [x @ a.T @ b.T * 2 for a, b in zip(layer.a, layer.b, strict=True)]
    assert torch.allclose(change[:, :4], wanted[0], atol=1e-6)
    assert torch.equal(change[:, 4:8], torch.zeros(5, 4))
    assert torch.allclose(change[:, 8:], wanted[1], atol=1e-6)


def test_only_the_adapter_is_trained_and_the_bias_mask_of_k_stays() -> None:
    model = tiny()
    mask = model.blocks[0].attn.qkv.bias_mask.clone()
    names = add_lora(model, LoraOptions(2, targets=("q", "k", "v")))
    assert names == ("blocks.0.attn.qkv", "blocks.1.attn.qkv")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{name}.{ab}.{third}" for name in names for ab in "ab" for third in range(3)}
    layer = model.blocks[0].attn.qkv
    assert isinstance(layer, LoraLinear)
    assert torch.equal(layer.base.bias_mask, mask)


def test_dropout_acts_on_the_adapter_alone() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(torch.nn.Linear(16, 8), (None,), LoraOptions(2, dropout=0.5))
    x = torch.randn(3, 16)
    assert torch.equal(layer(x), layer.base(x))  # B is zero
    torch.nn.init.normal_(layer.b[0])
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_a_convnext_has_only_mlp_targets() -> None:
    model = build_model(random_checkpoint(tiny_convnext()))
    with pytest.raises(ConfigError, match="wanted some of mlp"):
        add_lora(model, LoraOptions(2, targets=("q",)))
    add_lora(model, LoraOptions(2))
    assert {name.rpartition(".")[2] for name, _ in lora_layers(model)} == {"pwconv1", "pwconv2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 4, "alpha": -1.0}, "lora_alpha"),
        ({"rank": 4, "alpha": float("nan")}, "lora_alpha"),
        ({"rank": 4, "dropout": 1.0}, "lora_dropout"),
        ({"rank": 4, "targets": ("q", "o")}, "wanted some of q, k, v, proj, mlp"),
        ({"rank": 4, "targets": ()}, "empty"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraOptions(**options)  # type: ignore[arg-type]
