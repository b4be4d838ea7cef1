"""Ranges are those of the values themselves, whatever the batches and the layers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import build_model, random_checkpoint
from dinov3_ref.layers import Mlp, SelfAttention
from dinov3_ref.models import DinoVisionTransformer
from dinov3_ref.models import vision_transformer as models
from dinov3_ref.ranges import Ranges, measure, measure_ranges
from tests.support.images.photographs import pixels
from tests.support.overflowing_models import gentle, massive_product
from tests.support.tiny_models import tiny_config

KINDS = ("mlp", "swiglu", "7b")


def batch(height: int = 80, width: int = 112) -> Tensor:
    return pixels(("coffee", "china", "chelsea"), height, width)


def sites(ranges: Ranges) -> dict[str, float]:
    return {site.name: site.largest for site in ranges.sites}


@pytest.mark.parametrize("kind", KINDS)
def test_the_residual_is_what_blocks_give(kind: str) -> None:
    model = build_model(gentle(kind))
    found = measure_ranges(model, [batch()])
    with torch.no_grad():
        layers = model.get_intermediate_layers(
            batch(), n=3, norm=False, return_class_token=True, return_extra_tokens=True
        )
    for block, (patch, cls, storage) in zip(found.blocks, layers, strict=True):
        by_kind = block.residual.largest_by_kind
        assert by_kind["cls"] == float(cls.abs().max())
        assert by_kind["storage"] == float(storage.abs().max())
        assert by_kind["patch"] == float(patch.abs().max())
        assert block.residual.largest == max(by_kind.values())
        assert block.residual.tokens == {"cls": 3, "storage": 12, "patch": 3 * 35}
        assert sites(found)[f"blocks.{block.index}.residual"] == block.residual.largest


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_attention(kind: str) -> None:
    """Against the product written out: q and k of block 0 from the tokens, RoPE applied, scaled and not."""
    model = build_model(gentle(kind))
    found = measure_ranges(model, [batch()]).blocks[0]
    block = model.blocks[0]
    attn: SelfAttention = block.attn  # type: ignore[assignment]
    with torch.no_grad():
        tokens, (h, w) = model.prepare_tokens_with_masks(batch())
        qkv = attn.qkv(block.norm1(tokens))  # type: ignore[operator]
        q, k, _ = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = attn.apply_rope(q, k, model.rope_embed(H=h, W=w))
        logits = q @ k.transpose(-1, -2)
    assert found.logits == pytest.approx(float(logits.abs().max()), rel=1e-6)
    by_name = {site.name: site.largest for site in found.sites}
    assert by_name["blocks.0.attn.q rotated"] == pytest.approx(float(q.abs().max()), rel=1e-6)
    assert by_name["blocks.0.attn.q scaled"] == pytest.approx(float(q.abs().max()) * attn.scale, rel=1e-6)
    assert by_name["blocks.0.attn.k rotated"] == pytest.approx(float(k.abs().max()), rel=1e-6)
    assert found.scaled_logits == pytest.approx(float(logits.abs().max()) * attn.scale, rel=1e-6)


def test_logits_of_large_pictures_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(gentle())
    whole = measure_ranges(model, [batch()])
    monkeypatch.setattr(measure, "QUERIES_AT_A_TIME", 7)
    for part, block in zip(measure_ranges(model, [batch()]).blocks, whole.blocks, strict=True):
        assert part.logits == pytest.approx(block.logits, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_product_is_there_in_order(kind: str) -> None:
    checkpoint = gentle(kind)
    names = [site.name for site in measure_ranges(build_model(checkpoint), [batch()]).sites]
    ffn = ("fc1", "fc2") if kind == "mlp" else ("w1", "w2", "w3")
    wanted = [
        "norm1 output",
        "attn.qkv input",
        *(f"attn.{part} output" for part in "qkv"),
        "attn q·k",
        "attn logits",
        "attn attended",
        "attn.proj input",
        "attn.proj output",
        "attn.proj after ls1",
        "residual after attn",
        "norm2 output",
        *(f"mlp.{name} {end}" for name in ffn[:-1] for end in ("input", "output")),
        "mlp hidden",
        f"mlp.{ffn[-1]} input",
        f"mlp.{ffn[-1]} output",
        f"mlp.{ffn[-1]} after ls2",
        "residual",
    ]
    places = [names.index(f"blocks.1.{name}") for name in wanted]
    assert places == sorted(places)
    assert names[:2] == ["patch_embed output", "tokens"]
    assert names[-1] == "norm output"


def test_values_are_the_modules_own() -> None:
    model = build_model(massive_product())
    with torch.no_grad():
        tokens, (h, w) = model.prepare_tokens_with_masks(batch())
        rope = model.rope_embed(H=h, W=w)
        block = model.blocks[0]
        y = tokens + block.ls1(block.attn(block.norm1(tokens), rope=rope))  # type: ignore[operator]
        hidden = block.mlp.act(block.mlp.fc1(block.norm2(y)))  # type: ignore[operator, union-attr]
        product = block.mlp.fc2(hidden)  # type: ignore[operator, union-attr]
        after = block.ls2(product)  # type: ignore[operator]
    found = measure_ranges(model, [batch()])
    by_name = sites(found)
    for name, value in (("mlp hidden", hidden), ("mlp.fc2 output", product), ("mlp.fc2 after ls2", after)):
        assert by_name[f"blocks.0.{name}"] == pytest.approx(float(value.abs().max()), rel=1e-5)
    assert found.blocks[0].linear_out == by_name["blocks.0.mlp.fc2 output"]
    assert found.blocks[0].hidden == by_name["blocks.0.mlp hidden"]
    spread = found.blocks[0].spreads["mlp hidden"]
    maxima = hidden.abs().amax((0, 1))
    assert spread.channel == int(maxima.argmax())
    assert spread.ratio == pytest.approx(float(maxima.max() / maxima.median()), rel=1e-5)
    gamma = model.blocks[0].ls2.gamma.detach().abs()  # type: ignore[union-attr, operator]
    gains = found.blocks[0].layer_scale["ls2"]
    assert (gains.smallest, gains.largest) == (float(gamma.min()), float(gamma.max()))


def test_batches_do_not_matter() -> None:
    model = build_model(massive_product("swiglu"))
    together = measure_ranges(model, [batch()])
    apart = measure_ranges(model, batch().split(1))
    assert together.images == apart.images == 3
    assert sites(apart) == pytest.approx(sites(together), rel=1e-5)
    for one, other in zip(apart.blocks, together.blocks, strict=True):
        assert one.residual.tokens_beyond == other.residual.tokens_beyond
        assert one.residual.tokens == other.residual.tokens


def test_sizes_may_differ() -> None:
    model = build_model(gentle())
    small, wide = batch(48, 64), batch(32, 160)
    both = measure_ranges(model, [small, wide, small])
    assert both.sizes == ((48, 64), (32, 160))
    assert both.images == 9
    alone = [sites(measure_ranges(model, [x])) for x in (small, wide)]
    assert sites(both) == {name: max(one[name] for one in alone) for name in alone[0]}


def test_the_model_is_left_as_it_was() -> None:
    model = build_model(gentle()).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    first = measure_ranges(model, [batch()])
    assert model.training
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert first == measure_ranges(model.eval(), [batch()])
    with pytest.raises(RuntimeError):
        measure_ranges(model, [torch.zeros(1, 5, 32, 32)])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_json_has_everything() -> None:
    facts = measure_ranges(build_model(gentle()), [batch()]).as_dict()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert len(facts["blocks"]) == 3
    assert facts["blocks"][2]["sites"][0]["name"] == "blocks.2.norm1 output"


def test_misuse() -> None:
    model = build_model(gentle())
    with pytest.raises(ValueError, match=r"torch\.float16; ranges need the fp32 reference"):
        measure_ranges(model.half(), [batch()])
    with pytest.raises(ValueError, match="no batch of images"):
        measure_ranges(build_model(gentle()), [])


# ---- models of a user's own --------------------------------------------------------------------


class MeanAttention(nn.Module):
    """No attention at all: every token gets the mean. Shares nothing with SelfAttention but its call."""

    def __init__(self, dim: int, **_: object) -> None:
        super().__init__()
        self.mix = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attn_bias: object = None, rope: object = None) -> Tensor:
        return self.mix(x).mean(1, keepdim=True).expand_as(x)


def test_foreign_attention_is_recorded_as_far_as_it_is_linear() -> None:
    config = tiny_config().kwargs() | {"attn_class": MeanAttention}
    torch.manual_seed(0)
    found = measure_ranges(DinoVisionTransformer(**config), [batch()])
    assert found.blocks[0].logits is None
    assert found.blocks[0].scaled_logits is None
    assert set(found.blocks[0].spreads) == {"norm1 output", "norm2 output", "mlp hidden"}
    assert {"blocks.0.attn.mix output", "blocks.0.attn.mix after ls1"} <= set(sites(found))


def test_bare_models_have_no_gains_and_no_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own feed-forward layer, no LayerScale, no storage tokens, a separate CLS norm."""
    relu = partial(Mlp, hidden_features=64)

    def make(**options: object) -> nn.Module:
        options.pop("hidden_features")
        return relu(**options)

    monkeypatch.setitem(models.ffn_layer_dict, "narrow", make)
    config = replace(
        tiny_config(ffn_layer="narrow"),
        layerscale_init=None,
        n_storage_tokens=0,
        untie_cls_and_patch_norms=True,
    )
    torch.manual_seed(0)
    found = measure_ranges(DinoVisionTransformer(**config.kwargs()), [batch()])
    assert found.blocks[0].layer_scale == {}
    assert found.blocks[0].residual.tokens == {"cls": 3, "storage": 0, "patch": 105}
    assert {site.name for site in found.tail} == {"norm output", "cls_norm output"}
    assert found.blocks[0].spreads["mlp hidden"].channel < 64


def test_fp64_is_welcome() -> None:
    checkpoint = random_checkpoint(tiny_config())
    wide = build_model(checkpoint, torch.float64)
    wide.rope_embed.dtype = torch.float64  # type: ignore[union-attr]
    found = measure_ranges(wide, [batch().double()])
    assert sites(found) == pytest.approx(sites(measure_ranges(build_model(checkpoint), [batch()])), rel=1e-4)
