"""The encoder's shapes at sizes that do not halve evenly, and its position embedding."""

from __future__ import annotations

import numpy as np
import torch

from dinov3_ref.tasks.deimv2.config import DeimV2Config, read_config
from dinov3_ref.tasks.deimv2.encoder import HybridEncoder, MapEncoder


def config() -> DeimV2Config:
    backbone = {"model_type": "dinov3_vit", "num_hidden_layers": 3, "out_indices": [1, 2, 3]}
    sizes = {"encoder_hidden_dim": 16, "encoder_ffn_dim": 24, "encoder_attention_heads": 2, "depth_mult": 0.3}
    inputs = {"decoder_in_channels": [16] * 3}
    return read_config({"backbone_config": backbone, **sizes, **inputs}, "model")


def test_maps_keep_their_sizes() -> None:
    maps = [torch.zeros(2, 16, *size) for size in ((14, 10), (7, 5), (4, 3))]
    assert [m.shape for m in HybridEncoder(config())(maps)] == [m.shape for m in maps]


def test_positions_tell_rows_from_columns() -> None:
    """With equal tokens, only the positions make a map uneven: along both axes, differently."""
    torch.manual_seed(0)
    encoder = MapEncoder(config())
    seen = {}
    encoder.layers[0].self_attn.register_forward_pre_hook(lambda _, args: seen.update(positions=args[1]))
    encoder(torch.zeros(1, 16, 3, 5))
    found = seen["positions"].numpy().reshape(3, 5, 16)
    omega = 10000.0 ** -(np.arange(4) / 4)
    for row, column in ((0, 0), (2, 1), (1, 4)):
        parts = [np.sin(row * omega), np.cos(row * omega), np.sin(column * omega), np.cos(column * omega)]
        np.testing.assert_allclose(found[row, column], np.concatenate(parts), atol=1e-6)
