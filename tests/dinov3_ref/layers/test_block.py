"""The block's formula, and its batch-subset stochastic depth (docs/spec.md 0 fact 9, 2.8, 2.9)."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinov3_ref.layers import CausalSelfAttentionBlock, LayerScale, Mlp, SelfAttentionBlock, SwiGLUFFN
from dinov3_ref.layers.attention import Rope

DIM = 16


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, DIM, generator=torch.Generator().manual_seed(seed))


def table(*lead: int, patches: int = 4) -> Rope:
    half = torch.randn(*lead, patches, DIM // 4, generator=torch.Generator().manual_seed(5))
    angles = torch.cat((half, half), dim=-1)
    return angles.sin(), angles.cos()


def lively(block: Any) -> Any:
    """Every parameter away from zero and from one, so that one left out would show."""
    generator = torch.Generator().manual_seed(1)
    for parameter in block.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
    return block.eval()


def make(drop_path: float = 0.0, **options: Any) -> Any:
    chosen: dict[str, Any] = {"qkv_bias": True, "mask_k_bias": True, "init_values": 0.5} | options
    return lively(SelfAttentionBlock(DIM, num_heads=2, drop_path=drop_path, **chosen))


# ---- the formula --------------------------------------------------------------------------------


@pytest.mark.parametrize("ffn_layer", [Mlp, SwiGLUFFN, partial(SwiGLUFFN, align_to=64)])
@pytest.mark.parametrize("training", [False, True])
def test_two_residual_branches(ffn_layer: Any, training: bool) -> None:
    block = make(ffn_layer=ffn_layer).train(training)
    x, rope = tokens(2, 6), table()
    y = x + block.ls1.gamma * block.attn(block.norm1(x), rope=rope)
    z = y + block.ls2.gamma * block.mlp(block.norm2(y))
    torch.testing.assert_close(block(x, rope), z)


@pytest.mark.parametrize("init_values", [None, 0.0])
def test_without_layer_scale_the_branches_are_added_as_they_are(init_values: float | None) -> None:
    block = make(init_values=init_values)
    assert isinstance(block.ls1, nn.Identity)
    assert isinstance(block.ls2, nn.Identity)
    x = tokens(2, 6)
    y = x + block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), y + block.mlp(block.norm2(y)))


def test_children_and_hidden_width() -> None:
    block = make(ffn_ratio=3.99, proj_bias=False, ffn_bias=False)
    assert [name for name, _ in block.named_children()] == ["norm1", "attn", "ls1", "norm2", "mlp", "ls2"]
    assert isinstance(block.ls1, LayerScale)
    assert block.mlp.fc1.weight.shape == (63, DIM)  # int(16 * 3.99)
    assert block.attn.proj.bias is None
    assert block.mlp.fc1.bias is None
    assert block.attn.num_heads == 2


def test_a_list_equals_its_entries() -> None:
    block = make()
    xs, ropes = [tokens(2, 6), tokens(3, 9, seed=1)], [table(), table(patches=7)]
    got = block(xs, ropes)
    assert isinstance(got, list)
    for out, x, rope in zip(got, xs, ropes, strict=True):
        torch.testing.assert_close(out, block(x, rope))
    for out, x in zip(block(xs), xs, strict=True):
        torch.testing.assert_close(out, block(x))


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="block input is a dict; wanted a Tensor or a list of Tensors"):
        make()({"x": tokens(1, 2)})
    with pytest.raises(ValueError, match="argument 2"):
        make()([tokens(1, 2), tokens(1, 3)], [None])


# ---- stochastic depth ---------------------------------------------------------------------------


class OneHot(nn.Module):
    """A branch that gives 1 in one channel, so that the sum shows which rows it was added to."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel
        self.batches: list[int] = []

    def forward(self, x: Tensor, rope: Rope | None = None) -> Tensor:
        self.batches.append(x.shape[0])
        out = torch.zeros_like(x)
        out[..., self.channel] = 1.0
        return out


def counting_block(drop_path: float) -> Any:
    """Attention adds to channel 0, the FFN to channel 1."""
    block = SelfAttentionBlock(DIM, num_heads=2, drop_path=drop_path)
    block.attn, block.mlp = OneHot(0), OneHot(1)
    return block.train()


def added_rows(block: Any, batch: int) -> Tensor:
    """What attention and the FFN add to each row of a batch of zeros: [branch, B]."""
    out = block(torch.zeros(batch, 3, DIM))
    assert torch.equal(out[:, 0], out[:, 2])  # whole rows
    return out[:, 0, :2].T


# Batch, rate -> rows kept: max(int(B·(1-r)), 1) in Python floats (20·(1-0.9) is 1.9999999999999996).
KEPT = [(8, 0.3, 5), (10, 0.1, 9), (10, 0.3, 7), (4, 0.5, 2), (2, 0.9, 1), (1, 0.5, 1), (20, 0.9, 1)]


@pytest.mark.parametrize(("batch", "rate", "kept"), KEPT)
def test_a_subset_is_kept_and_scaled_by_exactly_b_over_s(batch: int, rate: float, kept: int) -> None:
    torch.manual_seed(0)
    block = counting_block(rate)
    for added in added_rows(block, batch):
        assert sorted(added.tolist()) == pytest.approx([0.0] * (batch - kept) + [batch / kept] * kept)
    assert block.attn.batches == block.mlp.batches == [kept]


def test_attention_and_ffn_pick_different_rows_and_so_does_every_call() -> None:
    torch.manual_seed(0)
    block = counting_block(0.5)
    picks = [(added_rows(block, 8) > 0).tolist() for _ in range(20)]
    assert sum(attn == ffn for attn, ffn in picks) <= 3  # 1 in 70 by chance
    assert len({tuple(attn) for attn, _ in picks}) > 10


def test_the_mean_over_draws_is_the_undropped_sum() -> None:
    torch.manual_seed(0)
    block = counting_block(0.3)
    mean = torch.stack([added_rows(block, 8) for _ in range(1500)]).mean(0)
    torch.testing.assert_close(mean, torch.ones(2, 8), rtol=0, atol=0.08)  # 4 standard errors


def test_rows_are_drawn_for_all_entries_first_for_attention_then_for_the_ffn() -> None:
    """The same draws again, each branch by itself (docs/spec.md 2.8)."""
    block = make(drop_path=0.4).train()
    xs, ropes = [tokens(5, 6), tokens(3, 9, seed=1)], [table(), table(patches=7)]
    torch.manual_seed(3)
    got = block(xs, ropes)
    torch.manual_seed(3)
    first = [torch.randperm(5)[:3], torch.randperm(3)[:1]]
    second = [torch.randperm(5)[:3], torch.randperm(3)[:1]]
    for out, x, rope, one, two in zip(got, xs, ropes, first, second, strict=True):
        scale = x.shape[0] / len(one)
        y = x.clone()
        y[one] += scale * block.ls1(block.attn(block.norm1(x[one]), rope=rope))
        z = y.clone()
        z[two] += scale * block.ls2(block.mlp(block.norm2(y[two])))
        torch.testing.assert_close(out, z)


def test_a_table_of_each_sample_follows_its_sample() -> None:
    block = make(drop_path=0.5).train()
    x, rope = tokens(4, 6), table(4, 1)  # [B, h, P, d] with h = 1 for all heads
    torch.manual_seed(1)
    got = block(x, rope)
    torch.manual_seed(1)
    one, two = torch.randperm(4)[:2], torch.randperm(4)[:2]
    assert one.tolist() != [0, 1]  # else the first tables would do
    for i in range(4):
        y = x[i : i + 1]
        if i in one:
            y = y + 2 * block.ls1(block.attn(block.norm1(y), rope=(rope[0][i], rope[1][i])))
        if i in two:
            y = y + 2 * block.ls2(block.mlp(block.norm2(y)))
        torch.testing.assert_close(got[i : i + 1], y)


def test_gradients_reach_only_the_rows_that_were_kept() -> None:
    block = make(drop_path=0.5).train()
    x = tokens(4, 3).requires_grad_()
    torch.manual_seed(0)
    (block(x) - x).square().sum().backward()
    torch.manual_seed(0)
    kept = set(torch.randperm(4)[:2].tolist()) | set(torch.randperm(4)[:2].tolist())
    assert x.grad is not None
    assert {i for i in range(4) if x.grad[i].abs().max() > 0} == kept


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True)])
def test_nothing_is_drawn_in_evaluation_or_at_rate_zero(rate: float, training: bool) -> None:
    block, undropped = make(drop_path=rate).train(training), make()
    x = tokens(4, 3)
    before = torch.get_rng_state()
    assert torch.equal(block(x), undropped(x))
    assert torch.equal(torch.get_rng_state(), before)


class PlainFFN(nn.Module):
    """S38's: knows single tensors only."""

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp.fc2(self.mlp.act(self.mlp.fc1(x)))


def test_layers_without_a_list_forward_train_with_drop_path() -> None:
    block = make(drop_path=0.5).train()
    plain = copy.deepcopy(block)
    plain.mlp = PlainFFN(plain.mlp)
    assert not hasattr(plain.mlp, "forward_list")
    xs = [tokens(4, 6), tokens(2, 3, seed=1)]
    torch.manual_seed(0)
    wanted = block(xs)
    torch.manual_seed(0)
    for got, out in zip(plain(xs), wanted, strict=True):
        torch.testing.assert_close(got, out)


# ---- the text tower's block ---------------------------------------------------------------------


def test_causal_block() -> None:
    block = lively(CausalSelfAttentionBlock(DIM, num_heads=2, ls_init_value=0.5))
    assert [name for name, _ in block.named_children()] == (
        ["ls1", "attention_norm", "attention", "ffn_norm", "feed_forward", "ls2"]
    )
    x = tokens(2, 6)
    y = x + block.ls1.gamma * block.attention(block.attention_norm(x), is_causal=True)
    torch.testing.assert_close(block(x), y + block.ls2.gamma * block.feed_forward(block.ffn_norm(y)))
    block.is_causal = False
    assert not torch.allclose(block(x)[:, 0], y[:, 0], atol=1e-3)


def test_causal_block_initial_weights() -> None:
    torch.manual_seed(0)
    block = CausalSelfAttentionBlock(256, num_heads=4)
    nn.init.zeros_(block.ffn_norm.get_parameter("weight"))
    block.init_weights(factor=0.5)
    stds = {
        "attention.qkv": 1 / 16,  # D^-0.5
        "attention.proj": 1 / 32,  # that · factor
        "feed_forward.fc1": 512**-0.5,  # (2D)^-0.5
        "feed_forward.fc2": 1 / 32,
    }
    for name, std in stds.items():
        assert float(block.get_parameter(f"{name}.weight").detach().std()) == pytest.approx(std, rel=0.02)
    assert torch.equal(block.ffn_norm.get_parameter("weight"), torch.ones(256))
