"""What makes one DINOv3 ViT differ from another (SPEC 1.2, 1.3): a dataclass, validated at birth.

`ViTConfig` speaks the constructor's own names, so `DinoVisionTransformer(**config.kwargs())` builds it.
Its defaults are what every released model shares; the class defaults of `DinoVisionTransformer`
are older and differ (no LayerScale, no storage tokens, LayerNorm eps 1e-6: SPEC 0, facts 4 and 5).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from dinov3_ref.errors import ConfigError


@dataclass(frozen=True)
class ViTConfig:
    """Architecture of one ViT. Raises `ConfigError` for a combination no model can have."""

    embed_dim: int
    depth: int
    num_heads: int
    ffn_ratio: float = 4.0
    ffn_layer: str = "mlp"  # mlp | swiglu | swiglu32 | swiglu64 | swiglu128, or a registered name
    qkv_bias: bool = True
    mask_k_bias: bool = True
    ffn_bias: bool = True
    proj_bias: bool = True
    layerscale_init: float | None = 1e-5
    norm_layer: str = "layernormbf16"  # LayerNorm with eps 1e-5: the name is historical
    n_storage_tokens: int = 4
    untie_cls_and_patch_norms: bool = False
    untie_global_and_local_cls_norm: bool = False
    patch_size: int = 16
    in_chans: int = 3
    img_size: int = 224
    drop_path_rate: float = 0.0
    pos_embed_rope_base: float | None = 100.0
    pos_embed_rope_min_period: float | None = None
    pos_embed_rope_max_period: float | None = None
    pos_embed_rope_normalize_coords: str = "separate"
    pos_embed_rope_shift_coords: float | None = None
    pos_embed_rope_jitter_coords: float | None = None
    pos_embed_rope_rescale_coords: float | None = 2.0
    pos_embed_rope_dtype: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("embed_dim", "depth", "num_heads", "patch_size", "in_chans"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; wanted a positive integer")
        if self.embed_dim % (4 * self.num_heads):
            raise ConfigError(
                f"embed_dim {self.embed_dim} with {self.num_heads} heads leaves head_dim "
                f"{self.embed_dim / self.num_heads:g}; RoPE wants a multiple of 4"
            )
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ConfigError(f"drop_path_rate is {self.drop_path_rate}; wanted 0 <= rate < 1")

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `DinoVisionTransformer`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ViTConfig:
        """Inverse of `kwargs`; an unknown name is a `ConfigError`."""
        unknown = sorted(set(data) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(
                f"unknown model option {unknown[0]!r}; known: {', '.join(f.name for f in fields(cls))}"
            )
        return cls(**data)
