"""Put our backbone into transformers' DINOv3 models and backbones (classes of dinov3_vit, dinov3_convnext).

Shapes: B batch, C channels, H W pixels, h w feature map, L tokens, D embed_dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dinodeploy.errors import ExportError
from dinov3_ref.checkpoints.layouts.hf import NORM_BY_EPS
from dinov3_ref.models import Backbone
from exporters.modules.backbones.build import build_backbone
from exporters.modules.backbones.parts import BACKBONE, Block, Part, RopeOfGrid, refuse, run_stage

VIT = ("DINOv3ViTModel", "DINOv3ViTBackbone")
CONVNEXT = ("DINOv3ConvNextModel", "DINOv3ConvNextBackbone")


class Rope(RopeOfGrid):
    """Replaces `DINOv3ViTRopePositionEmbedding`: pixels [B,C,H,W] -> RoPE tables."""

    def forward(self, pixel_values: Tensor) -> Any:
        p = self.vit.patch_size
        return self.table(pixel_values.shape[-2] // p, pixel_values.shape[-1] // p)


class Layer(Block):
    """Replaces one layer, in versions whose model runs its layers itself."""

    def forward(self, hidden_states: Tensor, *_: Any, position_embeddings: Any = None, **more: Any) -> Tensor:
        refuse("a mask", more.get("attention_mask"))
        return self.run(hidden_states, position_embeddings)


class Encoder(Part):
    """Replaces `DINOv3ViTEncoder`: tokens [B,L,D] -> the output class, with hidden states if asked for."""

    def __init__(self, backbone: Backbone, config: Any) -> None:
        super().__init__(backbone)
        self.config = config

    def forward(self, hidden_states: Tensor, position_embeddings: Any = None, **more: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        refuse("output_attentions", _asked(self.config, more, "output_attentions"))
        states = [hidden_states]
        for block in self.vit.blocks:
            states.append(block(states[-1], position_embeddings))
        wanted = _asked(self.config, more, "output_hidden_states")
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=tuple(states) if wanted else None)


class Stages(Part):
    """Replaces `DINOv3ConvNextEncoder`: pixels [B,C,H,W] -> the library's output; maps are [B,C,h,w]."""

    def __init__(self, backbone: Backbone, config: Any) -> None:
        super().__init__(backbone)
        self.config = config

    def forward(self, hidden_states: Tensor, **more: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        states = [hidden_states]
        for index in range(len(self.convnext.stages)):
            states.append(run_stage(self.convnext, index, states[-1]))
        wanted = _asked(self.config, more, "output_hidden_states")
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=tuple(states) if wanted else None)


def _asked(config: Any, arguments: dict[str, Any], name: str) -> bool:
    given = arguments.get(name)
    return bool(getattr(config, name, False) if given is None else given)


def put_vit(model: Any, where: str) -> Backbone:
    """Replace RoPE and layers of a copied ViT. Raises ExportError for one that our layers do not support."""
    config = model.config
    eps = config.layer_norm_eps
    if eps not in NORM_BY_EPS:
        raise ExportError(f"{where} has layer_norm_eps {eps:g}; wanted 1e-05 or 1e-06")
    parts = ("embeddings.", "model.", "encoder.", "layer.", "norm.")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(parts)}
    backbone = build_backbone(
        tensors,
        where,
        config=config.to_dict(),
        periods=1 / model.rope_embeddings.inv_freq.detach(),
        hints={"norm_layer": NORM_BY_EPS[eps], "num_heads": config.num_attention_heads},
    )
    setattr(model, BACKBONE, backbone)
    model.rope_embeddings = Rope(backbone)
    for name in ("model", "encoder"):
        if hasattr(getattr(model, name, None), "layer"):
            setattr(model, name, Encoder(backbone, config))
            return backbone
    model.layer = nn.ModuleList(Layer(backbone, index) for index in range(len(model.layer)))
    return backbone


def put_convnext(model: Any, where: str) -> Backbone:
    """Replace the stages of a copied ConvNeXt. Raises ExportError for one that ours does not support."""
    config = model.config
    parts = ("model.", "encoder.", "stages.", "layer_norm.")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(parts)}
    width = config.hidden_sizes[-1]  # a feature extractor has no final norm
    tensors.setdefault("layer_norm.weight", torch.ones(width))
    tensors.setdefault("layer_norm.bias", torch.zeros(width))
    backbone = build_backbone(tensors, where, config=config.to_dict())
    setattr(model, BACKBONE, backbone)
    name = "model" if hasattr(model, "model") else "encoder"
    setattr(model, name, Stages(backbone, config))
    return backbone
