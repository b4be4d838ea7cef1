"""Rotation, the masked bias and attention against numpy in float64 (docs/spec.md 2.3-2.6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dinov3_ref.layers import CausalSelfAttention, LinearKMaskedBias, SelfAttention
from dinov3_ref.layers.attention import (
    Rope,
    TokenwiseListMixin,
    join_tokens,
    rope_apply,
    rope_rotate_half,
    split_tokens,
)

Array = NDArray[np.float64]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def table(*shape: int, seed: int = 9, dtype: torch.dtype = torch.float32) -> Rope:
    """(sin, cos) of random angles; both halves of the last dimension hold the same ones."""
    half = random(*shape[:-1], shape[-1] // 2, seed=seed, dtype=torch.float64)
    angles = torch.cat((half, half), dim=-1)
    return angles.sin().to(dtype), angles.cos().to(dtype)


def rotated(x: Tensor, rope: Rope) -> Array:
    """Pairs (k, k + d/2) as complex numbers, times e^(i·angle) (docs/spec.md 2.3)."""
    a, b = np.split(x.double().numpy(), 2, axis=-1)
    sin, cos = (t.double().numpy()[..., : a.shape[-1]] for t in rope)
    turned = (a + 1j * b) * (cos + 1j * sin)
    return np.concatenate((turned.real, turned.imag), axis=-1)


# ---- rotation -----------------------------------------------------------------------------------


def test_rotate_half_of_the_seeds_example() -> None:
    """[x0 … x5] -> [-x3, -x4, -x5, x0, x1, x2]"""
    x = torch.tensor([10.0, 11, 12, 13, 14, 15])
    assert rope_rotate_half(x).tolist() == [-13, -14, -15, 10, 11, 12]


def test_a_quarter_turn_by_hand() -> None:
    x = torch.tensor([[1.0, 2, 3, 4]])
    assert rope_apply(x, torch.ones(1, 4), torch.zeros(1, 4)).tolist() == [[-3, -4, 1, 2]]
    assert rope_apply(x, torch.zeros(1, 4), torch.ones(1, 4)).tolist() == [[1, 2, 3, 4]]


def test_rotation_is_complex_multiplication() -> None:
    x, rope = random(2, 3, 6, 8, dtype=torch.float64), table(6, 8, dtype=torch.float64)
    np.testing.assert_allclose(rope_apply(x, *rope).numpy(), rotated(x, rope), rtol=0, atol=1e-14)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=["shared", "per head", "per sample"])
def test_the_last_tokens_are_turned_and_the_prefix_is_not(prefix: int, lead: tuple[int, ...]) -> None:
    attention, rope = SelfAttention(24, num_heads=3), table(*lead, 6, 8)
    q, k = random(2, 3, prefix + 6, 8), random(2, 3, prefix + 6, 8, seed=1)
    for before, after in zip((q, k), attention.apply_rope(q, k, rope), strict=True):
        assert torch.equal(after[:, :, :prefix], before[:, :, :prefix])
        np.testing.assert_allclose(
            after[:, :, prefix:].numpy(), rotated(before[:, :, prefix:], rope), atol=2e-6
        )


def test_a_table_for_more_tokens_than_there_are_is_refused() -> None:
    q = random(1, 2, 5, 8)
    with pytest.raises(ValueError, match="RoPE table holds 6 positions, the input 5 tokens"):
        SelfAttention(16, num_heads=2).apply_rope(q, q, table(6, 8))


def test_bf16_tokens_are_turned_in_fp32_by_an_fp32_table() -> None:
    """docs/spec.md 0, fact 6: cast to the table's dtype for the rotation, back afterwards."""
    q, rope = random(1, 2, 7, 8, dtype=torch.bfloat16), table(6, 8)
    got, _ = SelfAttention(16, num_heads=2).apply_rope(q, q, rope)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got[:, :, 1:], rope_apply(q[:, :, 1:].float(), *rope).bfloat16())
    coarse = rope_apply(q[:, :, 1:], *(t.bfloat16() for t in rope))
    assert not torch.equal(got[:, :, 1:], coarse)


def test_fp32_tokens_are_turned_in_bf16_by_a_bf16_table() -> None:
    q, rope = random(1, 2, 7, 8), table(6, 8, dtype=torch.bfloat16)
    got, _ = SelfAttention(16, num_heads=2).apply_rope(q, q, rope)
    assert got.dtype == torch.float32
    assert torch.equal(got[:, :, 1:], rope_apply(q[:, :, 1:].bfloat16(), *rope).float())
    assert torch.equal(got[:, :, :1], q[:, :, :1].bfloat16().float())  # the prefix goes through the cast too


def test_autocast_leaves_the_rotation_in_the_tables_dtype() -> None:
    seen = []

    class Watched(SelfAttention):
        def apply_rope(self, q: Tensor, k: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
            turned = super().apply_rope(q, k, rope)
            exact = rope_apply(q[:, :, 1:].float(), *rope).to(q.dtype)
            seen.append((q.dtype, turned[0].dtype, torch.equal(turned[0][:, :, 1:], exact)))
            return turned

    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        Watched(16, num_heads=2)(random(2, 7, 16), rope=table(6, 8))
    assert seen == [(torch.bfloat16, torch.bfloat16, True)]


# ---- the bias under a mask ----------------------------------------------------------------------


def test_a_new_mask_stops_k_alone() -> None:
    layer = LinearKMaskedBias(4, 6)
    assert layer.bias_mask.tolist() == [1, 1, 0, 0, 1, 1]
    assert list(layer.state_dict()) == ["weight", "bias", "bias_mask"]
    nn.init.constant_(layer.bias, 5.0)
    with torch.no_grad():
        assert layer(torch.zeros(1, 4)).tolist() == [[5, 5, 0, 0, 5, 5]]


def test_the_closed_mask_of_released_files_takes_bias_and_gradient_away() -> None:
    """docs/spec.md 0, fact 2."""
    layer = LinearKMaskedBias(4, 6)
    layer.bias_mask.zero_()
    x = random(3, 4)
    nn.init.constant_(layer.bias, 5.0)
    layer(x).sum().backward()
    assert torch.equal(layer(x), x @ layer.weight.T)
    assert layer.bias.grad is not None
    assert layer.bias.grad.count_nonzero() == 0


def test_mask_is_cast_to_the_bias_and_may_be_absent() -> None:
    layer = LinearKMaskedBias(4, 6)
    layer.bias_mask = layer.bias_mask.double()
    assert layer(random(1, 4)).dtype == torch.float32
    bare = LinearKMaskedBias(4, 6, bias=False)
    assert list(bare.state_dict()) == ["weight"]
    assert bare.effective_bias() is None
    with pytest.raises(ValueError, match="out_features 8 is not a multiple of 3"):
        LinearKMaskedBias(4, 8)


# ---- attention ----------------------------------------------------------------------------------


def by_hand(
    layer: SelfAttention | CausalSelfAttention, x_BND: Tensor, rope: Rope | None = None, causal: bool = False
) -> Array:
    """softmax(QKᵀ/√d) V, one sample and one head at a time."""
    x = x_BND.double().numpy()
    B, N, D = x.shape
    d = D // layer.num_heads
    weight = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    qkv = x @ weight["qkv.weight"].T + weight.get("qkv.bias", 0.0) * mask_of(layer)
    out = np.empty_like(x)
    for b in range(B):
        for head in range(layer.num_heads):
            q, k, v = (qkv[b, :, i * D + head * d : i * D + (head + 1) * d] for i in range(3))
            if rope is not None:
                P = rope[0].shape[-2]
                q, k = (np.r_[t[: N - P], rotated(torch.from_numpy(t[N - P :].copy()), rope)] for t in (q, k))
            logits = q @ k.T / np.sqrt(d)
            if causal:
                logits[np.triu_indices(N, 1)] = -np.inf
            attention = np.exp(logits - logits.max(-1, keepdims=True))
            out[b, :, head * d : (head + 1) * d] = attention / attention.sum(-1, keepdims=True) @ v
    return out @ weight["proj.weight"].T + weight.get("proj.bias", 0.0)


def mask_of(layer: nn.Module) -> Any:
    mask = layer.get_buffer("qkv.bias_mask") if "qkv.bias_mask" in layer.state_dict() else torch.ones(())
    return mask.double().numpy()


def lively(layer: nn.Module, dtype: torch.dtype = torch.float64) -> Any:
    """Every parameter far from zero, so that one left out would show."""
    for seed, parameter in enumerate(layer.parameters()):
        parameter.data = 0.5 * random(*parameter.shape, seed=seed)
    return layer.to(dtype).eval()


@pytest.mark.parametrize("with_rope", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"qkv_bias": True}, {"qkv_bias": True, "mask_k_bias": True}, {"proj_bias": False}]
)
def test_self_attention(options: dict[str, Any], with_rope: bool) -> None:
    layer = lively(SelfAttention(24, num_heads=3, **options))
    x = random(2, 11, 24, dtype=torch.float64)
    rope = table(6, 8, dtype=torch.float64) if with_rope else None
    with torch.no_grad():
        got = layer(x, rope=rope).numpy()
    np.testing.assert_allclose(got, by_hand(layer, x, rope), rtol=0, atol=1e-12)


def test_names_and_defaults_of_self_attention() -> None:
    layer = SelfAttention(24)
    assert sorted(layer.state_dict()) == ["proj.bias", "proj.weight", "qkv.weight"]
    assert (layer.num_heads, layer.scale) == (8, 3**-0.5)


def test_there_is_no_attention_bias() -> None:
    with pytest.raises(ValueError, match="attn_bias was given"):
        SelfAttention(16, num_heads=2)(random(1, 3, 16), attn_bias=torch.zeros(3, 3))


def test_dropout_in_training_is_after_the_projection_alone() -> None:
    """docs/spec.md 2.5: `attn_drop` is never applied; `proj_drop` is, but not by `forward_list`."""
    x = random(2, 5, 16)
    undropped = lively(SelfAttention(16, num_heads=2, attn_drop=0.9, proj_drop=0.5), torch.float32)
    wanted = undropped(x)
    undropped.train().proj_drop.p = 0.0
    assert torch.equal(undropped(x), wanted)
    undropped.proj_drop.p = 0.5
    assert 0.2 < float((undropped(x) == 0).float().mean()) < 0.8
    torch.testing.assert_close(undropped.forward_list([x])[0], wanted)


def test_a_list_is_attended_entry_by_entry() -> None:
    layer = lively(SelfAttention(24, num_heads=3, qkv_bias=True, mask_k_bias=True))
    xs = [random(2, 11, 24, dtype=torch.float64), random(3, 7, 24, seed=1, dtype=torch.float64)]
    ropes = [table(6, 8, dtype=torch.float64), None]
    got = layer.forward_list(xs, rope_list=ropes)
    assert [x.shape for x in got] == [x.shape for x in xs]
    for out, x, rope in zip(got, xs, ropes, strict=True):
        torch.testing.assert_close(out, layer(x, rope=rope), rtol=0, atol=1e-13)
    for out, x in zip(layer.forward_list(xs), xs, strict=True):
        torch.testing.assert_close(out, layer(x), rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="2 inputs with 1 RoPE tables"):
        layer.forward_list(xs, rope_list=[None])


# ---- attention of the text tower ----------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_causal_attention(causal: bool) -> None:
    layer = lively(CausalSelfAttention(16, num_heads=2, qkv_bias=True))
    x = random(2, 6, 16, dtype=torch.float64)
    with torch.no_grad():
        got = layer(x, is_causal=causal)
        np.testing.assert_allclose(got.numpy(), by_hand(layer, x, causal=causal), rtol=0, atol=1e-12)
        changed = x.clone()
        changed[:, 4:] += 1.0
        assert torch.equal(layer(changed, is_causal=causal)[:, :4], got[:, :4]) is causal


def test_causal_attention_drops_out_in_training_only() -> None:
    layer = lively(CausalSelfAttention(16, num_heads=2, attn_drop=0.5), torch.float32)
    x = random(1, 6, 16)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    torch.manual_seed(0)
    assert not torch.equal(layer(x), layer(x))


def test_causal_attention_initial_weights() -> None:
    torch.manual_seed(0)
    layer = CausalSelfAttention(256, num_heads=4, qkv_bias=True)
    layer.init_weights(factor=0.5)
    assert float(layer.qkv.weight.detach().std()) == pytest.approx(1 / 16, rel=0.02)  # D^-0.5
    assert float(layer.proj.weight.detach().std()) == pytest.approx(1 / 32, rel=0.02)
    assert not layer.qkv.bias.any()
    assert not layer.proj.bias.any()
    layer.init_weights(init_attn_std=0.3, init_proj_std=0.2)
    assert float(layer.qkv.weight.detach().std()) == pytest.approx(0.3, rel=0.02)
    assert float(layer.proj.weight.detach().std()) == pytest.approx(0.2, rel=0.02)


SHAPES = [(2, 5, 4), (3, 1, 4), (1, 7, 4)]


def entries() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def test_tokens_are_joined_sample_by_sample() -> None:
    flat, sizes = join_tokens([torch.arange(8.0).reshape(2, 2, 2), torch.full((1, 1, 2), -1.0)])
    assert flat.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [-1, -1]]
    assert sizes == [(2, 2), (1, 1)]


def test_splitting_undoes_joining() -> None:
    flat, sizes = join_tokens(entries())
    assert flat.shape == (20, 4)
    for got, wanted in zip(split_tokens(flat, sizes), entries(), strict=True):
        assert torch.equal(got, wanted)


def test_parts_keep_their_sizes_when_the_width_changes() -> None:
    flat, sizes = join_tokens(entries())
    assert [x.shape for x in split_tokens(flat @ torch.ones(4, 9), sizes)] == [
        (2, 5, 9),
        (3, 1, 9),
        (1, 7, 9),
    ]


def test_entries_of_different_width_cannot_be_joined() -> None:
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        join_tokens([torch.zeros(1, 2, 4), torch.zeros(1, 2, 5)])


class Counted(TokenwiseListMixin):
    """A tokenwise layer that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


def test_a_list_is_one_call_with_the_results_of_many() -> None:
    layer = Counted()
    got = layer.forward_list(entries())
    assert layer.calls == 1
    for out, x in zip(got, entries(), strict=True):
        torch.testing.assert_close(out, layer(x))


def test_masked_attention_equals_a_softmax_over_what_is_seen() -> None:
    """The first tokens see a part; the others see all, as without a mask."""
    attention, x = SelfAttention(16, num_heads=2), random(2, 7, 16)
    visible = torch.rand(2, 3, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    visible[:, :, 0] = True
    table = torch.rand(4, 8).sin(), torch.rand(4, 8).cos()
    got = attention(x, rope=table, visible=visible)
    assert torch.equal(got[:, 3:], attention(x, rope=table)[:, 3:])
    q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in attention.qkv(x).chunk(3, dim=-1))
    q, k = attention.apply_rope(q, k, table)
    scores = (q @ k.transpose(-1, -2) * attention.scale)[:, :, :3].masked_fill(~visible[:, None], -torch.inf)
    wanted = attention.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert torch.dist(got[:, :3], wanted) / wanted.norm() < 1e-6
    assert torch.dist(got[:, :3], attention(x, rope=table)[:, :3]) > 1e-2
