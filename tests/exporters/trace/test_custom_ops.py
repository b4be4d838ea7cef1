"""The custom ops' eager kernels against the layers of the reference."""

from __future__ import annotations

import pytest
import torch

from dinov3_ref.layers import RopePositionEmbedding, SelfAttention
from exporters.trace.custom_ops import TracedRope, masked_rope_attention, rope_attention, rope_table

PREFIX, DIM, HEADS = 5, 128, 2


def rope(normalize: str = "separate") -> RopePositionEmbedding:
    return RopePositionEmbedding(DIM, num_heads=HEADS, normalize_coords=normalize, dtype=torch.float32).eval()


@pytest.mark.parametrize("normalize", ["separate", "max", "min"])
@pytest.mark.parametrize(("h", "w"), [(3, 7), (8, 2), (1, 1)])
def test_rope_table_equals_the_reference_after_the_prefix(normalize: str, h: int, w: int) -> None:
    reference = rope(normalize)
    want_sin, want_cos = reference(H=h, W=w)
    sin, cos = TracedRope(reference, PREFIX)(H=h, W=w)
    half = want_sin.shape[-1] // 2
    assert torch.equal(sin[PREFIX:, half:], want_sin[:, half:])
    assert torch.equal(sin[PREFIX:, :half], -want_sin[:, :half]), "sin carries rotate_half's sign"
    assert torch.equal(cos[PREFIX:], want_cos)
    assert torch.equal(cos[:PREFIX], torch.ones(PREFIX, 2 * half)), "prefix tokens are not rotated"
    assert not sin[:PREFIX].any()


@pytest.mark.parametrize("folded", [True, False])
def test_attention_equals_the_reference(folded: bool) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(DIM, HEADS, qkv_bias=True)
    h, w = 3, 5
    reference = rope()
    qkv = torch.randn(2, PREFIX + h * w, 3 * DIM)
    wanted = attention.compute_attention(qkv, rope=reference(H=h, W=w))
    q, k, v = qkv.chunk(3, dim=-1)
    sin, cos = TracedRope(reference, PREFIX)(H=h, W=w)
    scale = 1.0 if folded else attention.scale
    got = rope_attention(q * attention.scale if folded else q, k, v, sin, cos, HEADS, scale)
    assert torch.dist(got, wanted) / wanted.norm() < 1e-6  # measured 2e-7
    without = rope_attention(q * attention.scale if folded else q, k, v, None, None, HEADS, scale)
    assert torch.dist(without, attention.compute_attention(qkv)) / wanted.norm() < 1e-6
    assert torch.dist(without, wanted) / wanted.norm() > 1e-2, "rope must matter here"


def test_masked_attention_equals_the_reference() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(DIM, HEADS, qkv_bias=True).eval().requires_grad_(False)
    reference, (h, w) = rope(), (3, 5)
    x = torch.randn(2, PREFIX + h * w, DIM)
    visible = torch.rand(2, 3, x.shape[1]) > 0.5
    visible[:, :, 0] = True
    wanted = attention(x, rope=reference(H=h, W=w), visible=visible)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    sin, cos = TracedRope(reference, PREFIX)(H=h, W=w)
    got = attention.proj(masked_rope_attention(q, k, v, visible, sin, cos, HEADS, attention.scale))
    assert torch.dist(got, wanted) / wanted.norm() < 1e-6  # measured 2e-7
    assert torch.dist(got, attention(x, rope=reference(H=h, W=w))) / wanted.norm() > 1e-2


def test_ops_pass_torch_opcheck() -> None:
    """torch's own check of schema, fake kernel and dispatch."""
    periods = rope().periods
    torch.library.opcheck(
        rope_table, (periods, 3, 4, PREFIX, "separate"), test_utils=("test_schema", "test_faketensor")
    )
    q = torch.randn(1, 17, DIM)
    sin, cos = rope_table(periods, 3, 4, PREFIX, "separate")
    torch.library.opcheck(
        rope_attention, (q, q, q, sin, cos, HEADS, 0.125), test_utils=("test_schema", "test_faketensor")
    )
    visible = torch.rand(1, 4, 17) > 0.5
    torch.library.opcheck(
        masked_rope_attention,
        (q, q, q, visible, sin, cos, HEADS, 0.125),
        test_utils=("test_schema", "test_faketensor"),
    )
