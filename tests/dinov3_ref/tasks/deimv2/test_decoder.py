"""Deformable attention, against loops in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinov3_ref.tasks.deimv2.config import read_config
from dinov3_ref.tasks.deimv2.decoder import DeformableAttention, GatedResidual, SwiGLU

HEADS, DIM, COUNTS = 2, 3, (1, 2, 2)
SIZES = ((8, 6), (4, 3), (2, 2))


def attention(method: str) -> DeformableAttention:
    config = read_config(
        {
            "backbone_config": {"model_type": "dinov3_vit", "num_hidden_layers": 3, "out_indices": [1, 2, 3]},
            "d_model": HEADS * DIM,
            "decoder_attention_heads": HEADS,
            "decoder_n_points": list(COUNTS),
            "decoder_method": method,
        },
        "model",
    )
    torch.manual_seed(0)
    return DeformableAttention(config)


def bilinear(plane: np.ndarray, x: float, y: float) -> float:
    """The plane [h,w] at (x, y) in pixels, pixel centres at whole numbers; 0 outside."""
    total = 0.0
    for j in (int(np.floor(y)), int(np.floor(y)) + 1):
        for i in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= j < plane.shape[0] and 0 <= i < plane.shape[1]:
                total += plane[j, i] * (1 - abs(x - i)) * (1 - abs(y - j))
    return total


def nearest(plane: np.ndarray, x: float, y: float) -> float:
    """The pixel that (x, y) lies in, or the one at the edge."""
    h, w = plane.shape
    return float(plane[min(max(int(y + 1.0), 0), h - 1), min(max(int(x + 1.0), 0), w - 1)])


@pytest.mark.parametrize(("method", "sample"), [("default", bilinear), ("discrete", nearest)])
def test_equals_loops(method: str, sample: object) -> None:
    layer = attention(method)
    generator = torch.Generator().manual_seed(1)
    queries = 3 * torch.randn(1, 4, HEADS * DIM, generator=generator)
    boxes = torch.rand(1, 4, 4, generator=generator)
    maps = [torch.randn(HEADS, DIM, *size, generator=generator) for size in SIZES]
    with torch.no_grad():
        got = layer(queries, boxes, maps)[0].double().numpy()
        offsets = layer.sampling_offsets(queries).view(4, HEADS, sum(COUNTS), 2).double().numpy()
        weights = layer.attention_weights(queries).view(4, HEADS, -1).softmax(-1).double().numpy()
    level = np.repeat(np.arange(3), COUNTS)
    wanted = np.zeros((4, HEADS, DIM))
    for q in range(4):
        cx, cy, w, h = boxes[0, q].double().numpy()
        for n in range(HEADS):
            for s, at in enumerate(level):
                x = cx + offsets[q, n, s, 0] / COUNTS[at] * w * 0.5
                y = cy + offsets[q, n, s, 1] / COUNTS[at] * h * 0.5
                rows, columns = SIZES[at]
                for d in range(DIM):
                    plane = maps[at][n, d].double().numpy()
                    wanted[q, n, d] += weights[q, n, s] * sample(plane, x * columns - 0.5, y * rows - 0.5)
    np.testing.assert_allclose(got, wanted.reshape(4, -1), atol=1e-5)


def test_a_gate_of_zeros_halves_both() -> None:
    gate = GatedResidual(4)
    torch.nn.init.zeros_(gate.gate.weight)
    torch.nn.init.zeros_(gate.gate.bias)
    a, b = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gate(a, b), gate.norm((a + b) / 2))


def test_swiglu() -> None:
    torch.manual_seed(0)
    layer, x = SwiGLU(4, 6), torch.randn(1, 2, 4)
    gate = layer.gate_proj(x)
    torch.testing.assert_close(layer(x), layer.down_proj(gate * gate.sigmoid() * layer.up_proj(x)))
