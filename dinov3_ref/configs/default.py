"""The default configuration (SPEC 4.1), as far as building a model reads it.

An OmegaConf structured config: `config.student.arch = "vit_base"` works, a misspelt key is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import OmegaConf


@dataclass
class Student:
    """The model. Flags default to the official training defaults, not to the released models' (SPEC 4.1)."""

    arch: str = "vit_large"
    patch_size: int = 16
    in_chans: int = 3
    drop_path_rate: float = 0.3
    layerscale: Optional[float] = 1.0e-5  # noqa: UP045  (OmegaConf evaluates annotations on 3.10 too)
    ffn_layer: Optional[str] = None  # noqa: UP045  None: what the architecture says
    ffn_ratio: Optional[float] = None  # noqa: UP045
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    norm_layer: str = "layernorm"
    n_storage_tokens: int = 0
    mask_k_bias: bool = False
    untie_cls_and_patch_norms: bool = False
    untie_global_and_local_cls_norm: bool = False
    pos_embed_rope_base: Optional[float] = 100.0  # noqa: UP045
    pos_embed_rope_min_period: Optional[float] = None  # noqa: UP045
    pos_embed_rope_max_period: Optional[float] = None  # noqa: UP045
    pos_embed_rope_normalize_coords: str = "separate"
    pos_embed_rope_shift_coords: Optional[float] = None  # noqa: UP045
    pos_embed_rope_jitter_coords: Optional[float] = None  # noqa: UP045
    pos_embed_rope_rescale_coords: Optional[float] = None  # noqa: UP045
    pos_embed_rope_dtype: str = "bf16"


@dataclass
class Crops:
    """Training crops; evaluation reads only the size."""

    global_crops_size: int = 224


@dataclass
class Config:
    """Root of the configuration tree."""

    student: Student = field(default_factory=Student)
    crops: Crops = field(default_factory=Crops)


def get_default_config() -> Any:
    """A fresh configuration (an OmegaConf `DictConfig` that behaves as `Config`)."""
    return OmegaConf.structured(Config())
