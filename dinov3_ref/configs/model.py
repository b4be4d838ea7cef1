"""Configuration of the model and of the crops it sees (docs/spec.md 4.1, rows "student" and "crops")."""
# ruff: noqa: UP045  (OmegaConf evaluates these annotations, on 3.10 too)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional


@dataclass
class Student:
    """The model. Defaults are those of official training, not of released models (docs/spec.md 1.3, 4.1)."""

    arch: str = "vit_large"
    embed_dim: Optional[int] = None  # None here and in the next six: the value of the architecture
    depth: Optional[int] = None
    num_heads: Optional[int] = None
    depths: Optional[list[int]] = None  # of a ConvNeXt, instead of the three above: blocks per stage
    dims: Optional[list[int]] = None  # of a ConvNeXt: channels per stage
    ffn_layer: Optional[str] = None
    ffn_ratio: Optional[float] = None
    patch_size: int = 16
    in_chans: int = 3
    drop_path_rate: float = 0.3
    layerscale: Optional[float] = 1.0e-5
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    norm_layer: str = "layernorm"
    n_storage_tokens: int = 0
    mask_k_bias: bool = False
    untie_cls_and_patch_norms: bool = False
    untie_global_and_local_cls_norm: bool = False
    pos_embed_rope_base: Optional[float] = 100.0
    pos_embed_rope_min_period: Optional[float] = None
    pos_embed_rope_max_period: Optional[float] = None
    pos_embed_rope_normalize_coords: str = "separate"
    pos_embed_rope_shift_coords: Optional[float] = None
    pos_embed_rope_jitter_coords: Optional[float] = None
    pos_embed_rope_rescale_coords: Optional[float] = None
    pos_embed_rope_dtype: str = "bf16"
    # Initial weights: a backbone without heads in any layout (facebookresearch/dinov3 #23, #207), or the
    # teacher.pth of an earlier run, with heads.
    pretrained_weights: str = ""
    resume_from_teacher_chkpt: str = ""


@dataclass
class Crops:
    """Training crops (docs/spec.md 4.12).

    Sizes are in pixels. To train several resolutions together, give lists of equal length for global, local
    and Gram sizes and for the ratios.
    """

    global_crops_scale: list[float] = field(default_factory=lambda: [0.32, 1.0])
    global_crops_size: Any = 224
    local_crops_number: int = 8
    local_crops_scale: list[float] = field(default_factory=lambda: [0.05, 0.32])
    local_crops_size: Any = 96
    global_local_crop_pairs_ratios: Any = 1.0
    gram_teacher_crops_size: Any = None
    gram_teacher_no_distortions: bool = False
    teacher_to_student_resolution_scale: float = 1.0  # teacher crop size / student crop size
    localcrops_subset_of_globalcrops: bool = False
    share_color_jitter: bool = False
    teacher_no_color_jitter: bool = False  # the teacher sees the global crops without distortions
    color_jitter: list[float] = field(  # brightness, contrast, saturation, hue
        default_factory=lambda: [0.4, 0.4, 0.2, 0.1]
    )
    grayscale_probability: float = 0.2
    horizontal_flips: bool = True
    rgb_mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    rgb_std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
