"""Architecture of a DINOv3 model as a dataclass, validated when created (docs/spec.md 1.2-1.4).

Fields are the constructor's arguments: `DinoVisionTransformer(**config.kwargs())` builds the model of a
`ViTConfig`, `ConvNeXt(**config.kwargs())` that of a `ConvNeXtConfig`. Defaults are the values that all
released models share. The class defaults of `DinoVisionTransformer` differ: no LayerScale, no storage tokens,
LayerNorm eps 1e-6 (docs/spec.md 0, facts 4 and 5).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from dinov3_ref.errors import ConfigError


@dataclass(frozen=True)
class ViTConfig:
    """Architecture of a ViT. Raises `ConfigError` for an impossible combination."""

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
    norm_layer: str = "layernormbf16"  # LayerNorm with eps 1e-5; the name is the official one
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
                f"{self.embed_dim / self.num_heads:g}; RoPE needs a multiple of 4"
            )
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ConfigError(f"drop_path_rate is {self.drop_path_rate}; wanted 0 <= rate < 1")

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def stride(self) -> int:
        """Pixels from one patch token to the next."""
        return self.patch_size

    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `DinoVisionTransformer`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ViTConfig:
        """Inverse of `kwargs`; an unknown name is a `ConfigError`."""
        _refuse_unknown(cls, data)
        return cls(**data)


STAGES = 4
STEM_STRIDE, DOWNSAMPLING = 4, 2  # strides of the stem, and of the convolution before each other stage


@dataclass(frozen=True)
class ConvNeXtConfig:
    """Architecture of a ConvNeXt. Raises `ConfigError` for an impossible combination.

    `patch_size` only resizes the result of `get_intermediate_layers`; no tensor depends on it.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)  # blocks per stage
    dims: tuple[int, ...] = (96, 192, 384, 768)  # channels per stage
    in_chans: int = 3
    drop_path_rate: float = 0.0
    layer_scale_init_value: float = 1e-6  # 0: no LayerScale
    patch_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))  # JSON has lists
        object.__setattr__(self, "dims", tuple(self.dims))
        for name in ("depths", "dims"):
            value = getattr(self, name)
            if len(value) != STAGES or min(value) < 1:
                raise ConfigError(
                    f"{name} is {list(value)}; wanted {STAGES} positive integers, one per stage"
                )
        if self.in_chans < 1 or (self.patch_size is not None and self.patch_size < 1):
            raise ConfigError(
                f"in_chans is {self.in_chans}, patch_size {self.patch_size}; wanted positive integers"
            )
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ConfigError(f"drop_path_rate is {self.drop_path_rate}; wanted 0 <= rate < 1")

    @property
    def embed_dim(self) -> int:
        return self.dims[-1]

    @property
    def depth(self) -> int:
        """Number of stages, which `get_intermediate_layers` and `--layers` count."""
        return STAGES

    @property
    def num_heads(self) -> int:
        return 0

    @property
    def n_storage_tokens(self) -> int:
        return 0

    @property
    def stride(self) -> int:
        """Pixels from one patch token of the last stage to the next."""
        return STEM_STRIDE * DOWNSAMPLING ** (STAGES - 1)

    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `ConvNeXt`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ConvNeXtConfig:
        """Inverse of `kwargs`; an unknown name is a `ConfigError`."""
        _refuse_unknown(cls, data)
        return cls(**data)


ModelConfig = ViTConfig | ConvNeXtConfig


# Annotations in this file -> types of the values in JSON.
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
    "tuple[int, ...]": (list, tuple),
}


def _refuse_unknown(cls: type, data: dict[str, Any]) -> None:
    """Raise `ConfigError` for an unknown name, and for a value of another type than the field's."""
    known = {field.name: str(field.type) for field in fields(cls)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ConfigError(f"unknown model option {unknown[0]!r}; known: {', '.join(known)}")
    for name, value in data.items():
        types = [kind for part in known[name].split(" | ") for kind in _JSON_TYPES[part]]
        if not isinstance(value, tuple(types)) or (isinstance(value, bool) and bool not in types):
            raise ConfigError(f"model option {name} is {value!r}; wanted {known[name]}")
