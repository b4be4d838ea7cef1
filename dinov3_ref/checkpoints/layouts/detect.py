"""Detect the layout of a checkpoint (docs/spec.md 3.5).

A layout knows its own key names; all other code uses official names. `LAYOUTS` is ordered: the first layout
that recognises the keys is used. ConvNeXts have their own layouts (`convnext.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from torch import Tensor

from dinov3_ref.checkpoints.layouts.convnext import CONVNEXT_LAYOUTS, ConvNeXtLayout
from dinov3_ref.checkpoints.layouts.hf import HuggingFaceLayout
from dinov3_ref.checkpoints.layouts.official import OfficialLayout
from dinov3_ref.checkpoints.layouts.timm import TimmLayout
from dinov3_ref.checkpoints.tensor_shapes import Shape
from dinov3_ref.errors import CheckpointError, ForeignCheckpoint
from dinov3_ref.models.config import ViTConfig


class Layout(Protocol):
    """One way to name and split the tensors of a DINOv3 ViT."""

    name: str
    block_prefix: str  # prefix before a block's index

    def recognises(self, keys: Collection[str]) -> bool:
        """Whether the keys are in this layout."""
        ...

    def modernise(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors with the layout's current names; older files may use others."""
        ...

    def spell(self, official_key: str) -> str:
        """This layout's name of a tensor that it stores unchanged."""
        ...

    def biases(self, keys: Collection[str]) -> tuple[bool, bool]:
        """(qkv_bias, mask_k_bias) of a file with these keys."""
        ...

    def hints(self, sidecars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Fields of `ViTConfig` from the JSON files. Raises `CheckpointError` for another kind of model."""
        ...

    def shapes(self, config: ViTConfig, keys: Collection[str] = ()) -> dict[str, Shape]:
        """This layout's key -> shape of every tensor; optional tensors only if they are in `keys`."""
        ...

    def to_official(self, tensors: Mapping[str, Tensor], config: ViTConfig) -> Mapping[str, Tensor]:
        """Tensors with official names; those that this layout cannot store are missing."""
        ...

    def from_official(self, state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
        """Tensors with this layout's names. Raises `CheckpointError` if it cannot store the model."""
        ...


LAYOUTS: tuple[Layout, ...] = (HuggingFaceLayout(), TimmLayout(), OfficialLayout())

# (part of a key, what the file is); the first match counts.
FOREIGN_PARTS: tuple[tuple[str, str], ...] = (
    ("text_model.", "a model with a text tower (CLIP, SigLIP or dino.txt)"),
    ("visual_model.", "dino.txt's vision head and text encoder"),
    ("transformer.resblocks.", "a CLIP model"),
    ("vision_model.", "a CLIP or SigLIP vision tower"),
    (".grn.", "a ConvNeXt V2"),
    ("position_embeddings", "a ViT with learned position embeddings (DINOv1 or DINOv2, Hugging Face names)"),
    ("pos_embed", "a ViT with learned position embeddings (DINOv1 or DINOv2)"),
    ("sampling_offsets", "a detection or segmentation head without its backbone"),
    ("linear_head.", "a linear head without its backbone"),
    ("decoder.", "a decoder head without its backbone"),
)

# Released heads, by a part of their file names (docs/spec.md 1.5).
FOREIGN_FILE_NAMES: dict[str, str] = {
    "linear_head": "a linear classification head",
    "dpt_head": "a depth or canopy-height head",
    "detr_head": "a detection head",
    "m2f_head": "a segmentation head",
    "vision_head_and_text_encoder": "dino.txt's vision head and text encoder",
}


def detect_layout(keys: Collection[str], name: str) -> Layout | ConvNeXtLayout:
    """The layout of these keys. Raises `ForeignCheckpoint`, which names the kind of file if it is known."""
    _refuse_foreign(keys, name)
    for layout in LAYOUTS:
        if layout.recognises(keys):
            return layout
    for convnext in CONVNEXT_LAYOUTS:
        if convnext.recognises(keys):
            return convnext
    sample = ", ".join(sorted(keys)[:3])
    raise ForeignCheckpoint(
        f"{name} is not a DINOv3 backbone in the official, Hugging Face or timm layout: {len(keys)} tensors, "
        f"such as {sample}; wanted the state dict of a ViT or a ConvNeXt"
    )


def _refuse_foreign(keys: Collection[str], name: str) -> None:
    """Raise `ForeignCheckpoint` for known models and heads that are not DINOv3 backbones."""
    for part, what in FOREIGN_FILE_NAMES.items():
        if part in name and not _has_backbone(keys):
            raise _foreign(name, f"{what} without its backbone")
    if "register_tokens" in keys and "pos_embed" in keys:
        raise _foreign(name, "DINOv2 with registers")
    for part, what in FOREIGN_PARTS:
        if any(part in key for key in keys):
            raise _foreign(name, what)


def _has_backbone(keys: Collection[str]) -> bool:
    return any(key.endswith(("cls_token", "downsample_layers.0.0.weight")) for key in keys)


def _foreign(name: str, what: str) -> CheckpointError:
    return ForeignCheckpoint(f"{name} is {what}; wanted a DINOv3 backbone")
