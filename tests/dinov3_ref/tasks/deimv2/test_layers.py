"""Layers against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dinov3_ref.tasks.deimv2.layers import MLP, Conv, RMSNorm, SelfAttention


def test_rms_norm() -> None:
    norm, x = RMSNorm(8), torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (8,), norm.weight, 1e-6))


def test_attention_with_positions_on_queries_and_keys_alone() -> None:
    torch.manual_seed(0)
    layer, x, positions = SelfAttention(8, 2), torch.randn(2, 5, 8), torch.randn(5, 8)
    q, k, v = (layer.q_proj(x + positions), layer.k_proj(x + positions), layer.v_proj(x))
    heads = [t.view(2, 5, 2, 4).transpose(1, 2) for t in (q, k, v)]
    wanted = layer.o_proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 5, 8))
    torch.testing.assert_close(layer(x, positions), wanted)


@pytest.mark.parametrize("depth", [1, 3])
def test_mlp_has_no_activation_after_its_last_layer(depth: int) -> None:
    torch.manual_seed(0)
    mlp = MLP(4, 6, 2, depth)
    assert len(mlp.layers) == depth
    assert (mlp(torch.randn(64, 4)) < 0).any()


def test_convolution_rounds_sizes_up() -> None:
    assert Conv(2, 3, 3, 2, activation="relu")(torch.zeros(1, 2, 7, 8)).shape == (1, 3, 4, 4)
