"""DEIMv2 detectors of transformers with lively weights: the reference of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints.layouts.hf import HuggingFaceLayout
from dinov3_ref.checkpoints.synthetic.planted import planted_checkpoint
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.tasks import LoadedTask, load_task_model
from dinov3_ref.torchvision_shim import import_torchvision

CLASSES = ("person", "bicycle", "car", "motorbike", "aeroplane")
FIXED = (".reg_scale", ".up", ".num_points_scale")  # constants, not learned

# width of the backbone, heads, hidden units; whether its maps are normed; the rest of config.json
Shape = dict[str, Any]
TINY: Shape = {
    "backbone": {
        "hidden_size": 64,
        "num_attention_heads": 1,
        "num_hidden_layers": 3,
        "intermediate_size": 128,
        "num_register_tokens": 2,
    },
    "spatial_tuning_adapter_inplanes": 8,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "hidden_expansion": 0.5,
    "depth_mult": 0.34,
    "encoder_has_trailing_conv": False,
    "d_model": 32,
    "decoder_ffn_dim": 64,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_n_points": [2, 3, 2],
    "num_queries": 40,
}
# As the released S and L (configurations of the official repository), with 3 blocks and 2 decoder layers.
S_SHALLOW: Shape = {
    "backbone": {
        "hidden_size": 192,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "intermediate_size": 768,
        "num_register_tokens": 0,
        "apply_layernorm": False,
    },
    "encoder_hidden_dim": 192,
    "encoder_ffn_dim": 512,
    "hidden_expansion": 0.34,
    "depth_mult": 0.67,
    "encoder_has_trailing_conv": False,
    "d_model": 192,
    "decoder_ffn_dim": 512,
    "decoder_layers": 2,
    "decoder_activation_function": "silu",
    "decoder_n_points": [3, 6, 3],
    "num_queries": 300,
}
L_SHALLOW: Shape = {
    "backbone": {
        "hidden_size": 384,
        "num_attention_heads": 6,
        "num_hidden_layers": 3,
        "intermediate_size": 1536,
        "num_register_tokens": 4,
        "key_bias": True,
    },
    "spatial_tuning_adapter_inplanes": 32,
    "encoder_hidden_dim": 224,
    "encoder_ffn_dim": 896,
    "encoder_has_trailing_conv": False,
    "d_model": 224,
    "decoder_ffn_dim": 1792,
    "decoder_layers": 2,
    "decoder_activation_function": "silu",
    "decoder_n_points": [3, 6, 3],
    "num_queries": 300,
}


def make_detector(shape: Shape, *, seed: int = 0, planted: bool = False, **changes: Any) -> Any:
    """transformers' detector with lively weights; `planted`: massive activations in its backbone."""
    import_torchvision()
    from transformers import Deimv2Config, Deimv2ForObjectDetection, DINOv3ViTConfig

    settings = {key: value for key, value in (shape | changes).items() if key != "backbone"}
    backbone = {"out_indices": [1, 2, 3], **shape["backbone"], **changes.get("backbone", {})}
    if planted:
        backbone |= {"num_register_tokens": 4, "key_bias": False}
    width = settings["encoder_hidden_dim"]
    settings.setdefault("encoder_in_channels", [width] * 3)
    settings.setdefault("decoder_in_channels", [width] * 3)
    config = Deimv2Config(
        backbone_config=DINOv3ViTConfig(**backbone), id2label=dict(enumerate(CLASSES)), **settings
    )
    model = Deimv2ForObjectDetection(config).eval()
    _enliven(model, seed)
    if planted:
        _plant(model.model.conv_encoder.backbone, seed)
    return model


def save_detector(model: Any, folder: Path, size: tuple[int, int] = (160, 160)) -> Path:
    """As transformers saves it, with the processor of the released DINOv3 detectors."""
    from transformers import RTDetrImageProcessor

    model.save_pretrained(folder)
    RTDetrImageProcessor(
        do_normalize=True,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        size={"height": size[0], "width": size[1]},
    ).save_pretrained(folder)
    return folder


def load_detector(folder: Path) -> LoadedTask:
    """Ours, from a folder that must be recognised."""
    loaded = load_task_model(folder)
    assert loaded is not None
    return loaded


def chosen_positions(outputs: Any, queries: int) -> Tensor:
    """The places that transformers' detector chose its queries from [B,Q]; -1 where none is proposed."""
    index = torch.topk(outputs.enc_outputs_class.max(-1).values, queries, dim=1).indices.float()
    return torch.where(outputs.init_reference_points[..., 0] > 1e4, -1.0, index)


def _enliven(model: nn.Module, seed: int) -> None:
    """No layer is an identity, and each keeps the size of what goes through it."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(FIXED):
                continue
            if name.endswith("lambda1"):
                parameter.copy_(0.3 + 0.4 * torch.rand(parameter.shape, generator=generator))
            elif parameter.dim() > 1 and "token" not in name:
                parameter.copy_(noise(parameter) / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise(parameter) + float(name.endswith("weight")))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(0.2 * noise(module.running_mean))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))


def _plant(backbone: Any, seed: int) -> None:
    """Put a planted checkpoint of its shape into transformers' backbone."""
    config = backbone.config
    vit = ViTConfig(
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        ffn_ratio=config.intermediate_size / config.hidden_size,
    )
    state = HuggingFaceLayout().from_official(planted_checkpoint(vit, seed).state, vit)
    own = backbone.state_dict()
    names = {key.removeprefix("model."): key for key in own}
    with torch.no_grad():
        backbone.load_state_dict({names[key]: tensor.float() for key, tensor in state.items()})
