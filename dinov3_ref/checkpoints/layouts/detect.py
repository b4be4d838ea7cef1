"""Detect the layout of a checkpoint (docs/spec.md 3.5).

A layout knows its own key names; all other code uses official names. `LAYOUTS` is ordered: the first layout
that recognises the keys is used. ConvNeXts have their own layouts (`convnext.py`).
"""

from __future__ import annotations

from collections.abc import Collection

from dinov3_ref.checkpoints.layouts.convnext import CONVNEXT_LAYOUTS, ConvNeXtLayout
from dinov3_ref.checkpoints.layouts.hf import HuggingFaceLayout
from dinov3_ref.checkpoints.layouts.official import OfficialLayout
from dinov3_ref.checkpoints.layouts.timm import TimmLayout
from dinov3_ref.errors import ForeignCheckpoint

LAYOUTS: tuple[OfficialLayout, ...] = (HuggingFaceLayout(), TimmLayout(), OfficialLayout())

# (part of a key, what the file is); the first match counts.
FOREIGN_PARTS: tuple[tuple[str, str], ...] = (
    ("text_model.", "a model with a text tower (CLIP, SigLIP, or dino.txt, which needs --vocab)"),
    ("visual_model.", "dino.txt's vision head and text encoder"),
    ("transformer.resblocks.", "a CLIP model"),
    ("vision_model.", "a CLIP or SigLIP vision tower"),
    (".grn.", "a ConvNeXt V2"),
    ("position_embeddings", "a ViT with learned position embeddings (DINOv1 or DINOv2, Hugging Face names)"),
    ("pos_embed", "a ViT with learned position embeddings (DINOv1 or DINOv2)"),
    ("lora_", "a model with LoRA weights beside its own: merge them first with peft's merge_and_unload()"),
    (".base_layer.", "a model with unmerged PEFT layers: merge them first with peft's merge_and_unload()"),
)
# The same for files without a backbone.
HEAD_PARTS: tuple[tuple[str, str], ...] = (
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


def detect_layout(keys: Collection[str], name: str) -> OfficialLayout | ConvNeXtLayout:
    """The layout of these keys. Raises `ForeignCheckpoint`, which names the kind of file if it is known."""
    if what := _foreign(keys, name):
        raise ForeignCheckpoint(f"{name} is {what}; wanted a DINOv3 backbone")
    layouts: tuple[OfficialLayout | ConvNeXtLayout, ...] = (*LAYOUTS, *CONVNEXT_LAYOUTS)
    for layout in layouts:
        if layout.recognises(keys):
            return layout
    sample = ", ".join(sorted(keys)[:3])
    raise ForeignCheckpoint(
        f"{name} is not a DINOv3 backbone in the official, Hugging Face or timm layout: {len(keys)} tensors, "
        f"such as {sample}; wanted the state dict of a ViT or a ConvNeXt"
    )


def _foreign(keys: Collection[str], name: str) -> str | None:
    """What a known model or head is that is no DINOv3 backbone, or None."""
    if "register_tokens" in keys and "pos_embed" in keys:
        return "DINOv2 with registers"
    parts: tuple[tuple[str, str], ...] = FOREIGN_PARTS
    if not any(key.endswith(("cls_token", "downsample_layers.0.0.weight", "stem.0.weight")) for key in keys):
        for part, what in FOREIGN_FILE_NAMES.items():
            if part in name:
                return f"{what} without its backbone"
        parts += HEAD_PARTS
    return next((what for part, what in parts if any(part in key for key in keys)), None)
