"""Put our backbone into timm's DINOv3 models: Eva with DINOv3's RoPE, ConvNeXt, and their feature extractors.

Shapes: B batch, C channels, H W pixels, L tokens, D embed_dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dinodeploy.errors import ExportError
from dinov3_ref.checkpoints.layouts.hf import NORM_BY_EPS
from dinov3_ref.models import Backbone
from dinov3_ref.models.config import STAGES
from exporters.modules.backbones.build import build_backbone
from exporters.modules.backbones.parts import BACKBONE, Block, RopeOfGrid, Stage, refuse

EVA_PARTS = ("cls_token", "reg_token", "patch_embed.", "blocks.", "norm.")


class Rope(RopeOfGrid):
    """Replaces `RotaryEmbeddingDinoV3`."""

    def __init__(self, backbone: Backbone, feat_shape: Any) -> None:
        super().__init__(backbone)
        self.feat_shape = feat_shape

    def get_embed(self, shape: Any = None, dtype: Any = None) -> Any:
        h, w = shape if shape is not None else self.feat_shape
        return self.table(h, w)


class EvaBlock(Block):
    """Replaces `EvaBlock`: x [B,L,D] -> [B,L,D]."""

    def forward(
        self, x: Tensor, rope: Any = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        refuse("a mask", attn_mask)
        refuse("causal attention", is_causal)
        return self.run(x, rope)


def is_dinov3(model: nn.Module) -> bool:
    """Whether an Eva has DINOv3's RoPE."""
    return type(getattr(model, "rope", None)).__name__ == "RotaryEmbeddingDinoV3"


def put_eva(model: Any, where: str) -> Backbone:
    """Replace RoPE and blocks of a copied Eva. Raises ExportError for one that our layers do not support."""
    rope, block = model.rope, model.blocks[0]
    wanted = {"rotate_half": True, "grid_offset": 0.0, "grid_indexing": "ij"}
    for name, value in wanted.items():
        if getattr(rope, name, value) != value:
            raise ExportError(f"{where}: its RoPE has {name} {getattr(rope, name)!r}; wanted {value!r}")
    eps = block.norm1.eps
    if eps not in NORM_BY_EPS:
        raise ExportError(f"{where}: its norms have eps {eps:g}; wanted 1e-05 or 1e-06")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(EVA_PARTS)}
    tensors.setdefault("norm.weight", torch.ones(model.embed_dim))  # a feature extractor has no final norm
    tensors.setdefault("norm.bias", torch.zeros(model.embed_dim))
    backbone = build_backbone(
        tensors,
        where,
        periods=rope.periods.detach(),
        hints={
            "norm_layer": NORM_BY_EPS[eps],
            "num_heads": block.attn.num_heads,
            "pos_embed_rope_normalize_coords": rope.normalize_coords,
        },
    )
    setattr(model, BACKBONE, backbone)
    model.rope = Rope(backbone, rope.feat_shape)
    model.blocks = nn.ModuleList(EvaBlock(backbone, index) for index in range(len(model.blocks)))
    model.grad_checkpointing = False
    return backbone


def is_convnext(model: nn.Module) -> bool:
    """Whether a model of timm's ConvNeXt class has the shape of DINOv3's."""
    stages = getattr(model, "stages", ())
    return len(stages) == STAGES and hasattr(model, "stem")


def is_feature_list(model: nn.Module) -> bool:
    """Whether timm's feature extractor holds the parts of a ConvNeXt."""
    names = dict(model.named_children())
    return {"stem_0", "stem_1", *(f"stages_{index}" for index in range(STAGES))} <= names.keys()


def put_convnext(model: Any, where: str) -> Backbone:
    """Replace stem and stages of a copied ConvNeXt."""
    tensors = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(("stem.", "stages.", "head.norm."))
    }
    backbone = _convnext(tensors, model.stages[-1], where)
    setattr(model, BACKBONE, backbone)
    model.stem = nn.Identity()  # the first stage has it
    model.stages = nn.Sequential(*(Stage(backbone, index) for index in range(STAGES)))
    return backbone


def put_feature_list(model: Any, where: str) -> Backbone:
    """Replace the parts of a ConvNeXt in a copied `FeatureListNet`, which runs its children in order."""
    tensors = {
        name.replace("stem_", "stem.", 1).replace("stages_", "stages.", 1): tensor
        for name, tensor in model.state_dict().items()
    }
    backbone = _convnext(tensors, model["stages_3"], where)
    model["stem_0"] = nn.Identity()
    model["stem_1"] = nn.Identity()
    for index in range(STAGES):
        model[f"stages_{index}"] = Stage(backbone, index)
    setattr(model["stem_0"], BACKBONE, backbone)  # not a child of its own: those are run in order
    return backbone


def _convnext(tensors: dict[str, Tensor], last: Any, where: str) -> Backbone:
    block = last.blocks[0]
    if block.norm.eps != 1e-6 or block.use_conv_mlp:
        raise ExportError(f"{where} is a ConvNeXt of timm, but not DINOv3's; wanted norms with eps 1e-06")
    width = block.norm.weight.shape[0]
    tensors.setdefault("head.norm.weight", torch.ones(width))
    tensors.setdefault("head.norm.bias", torch.zeros(width))
    return build_backbone(tensors, where)
