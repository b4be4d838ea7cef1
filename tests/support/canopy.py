"""A small CHMv2 of transformers with lively weights, saved as its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dinov3_ref.torchvision_shim import import_torchvision

SHAPE: dict[str, Any] = {
    "post_process_channels": [16, 24, 32, 48],
    "fusion_hidden_size": 32,
    "head_hidden_size": 32,
    "number_output_channels": 64,
}


def save_canopy_model(folder: Path, **options: Any) -> nn.Module:
    """Write config.json and model.safetensors to `folder`; the model itself in eval mode, fp32."""
    import_torchvision()
    from transformers import CHMv2Config, CHMv2ForDepthEstimation

    torch.manual_seed(0)
    backbone = {
        "model_type": "dinov3_vit",
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 1,
        "intermediate_size": 128,
        "num_register_tokens": 4,
        "out_indices": [1, 2, 3, 4],
        "return_class_token": True,
        "key_bias": True,
        "layer_norm_eps": 1e-6,
    }
    model = CHMv2ForDepthEstimation(CHMv2Config(backbone_config=backbone, **{**SHAPE, **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "token" in name:
                parameter.normal_(0, 1)
            elif parameter.dim() > 1:
                parameter.normal_(0, (1.6 / parameter[0].numel()) ** 0.5)
            elif name.endswith("lambda1"):
                parameter.uniform_(0.3, 1)
            elif name.endswith("weight"):
                parameter.uniform_(0.6, 1.4)
            else:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    made: nn.Module = model
    return made
