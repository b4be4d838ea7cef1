"""Tables of all architectures and all released DINOv3 backbones.

Source: docs/spec.md 1.1, 1.3, 1.4, 3.4.

`ARCHITECTURES` lists what `--arch` accepts. `RELEASED` has one row per released checkpoint; `find_released`
finds it by its torch.hub, Hugging Face or timm name. Parameter and entry counts are from docs/spec.md 1.3 and
1.4, and `tests/dinov3_ref/models/test_released.py` checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dinov3_ref.errors import ConfigError
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig, ViTConfig

VITS: dict[str, ViTConfig] = {
    "vit_small": ViTConfig(384, 12, 6),
    "vit_small_plus": ViTConfig(384, 12, 6, ffn_layer="swiglu", ffn_ratio=6.0),
    "vit_base": ViTConfig(768, 12, 12),
    "vit_large": ViTConfig(1024, 24, 16),
    "vit_large_plus": ViTConfig(1024, 24, 16, ffn_layer="swiglu", ffn_ratio=6.0),
    "vit_so400m": ViTConfig(1152, 27, 18, ffn_ratio=3.777777778),
    "vit_huge2": ViTConfig(1280, 32, 20),
    "vit_huge_plus": ViTConfig(1280, 32, 20, ffn_layer="swiglu", ffn_ratio=6.0),
    "vit_giant2": ViTConfig(1536, 40, 24),
    "vit_7b": ViTConfig(
        4096,
        40,
        32,
        ffn_ratio=3.0,
        ffn_layer="swiglu64",
        qkv_bias=False,
        untie_global_and_local_cls_norm=True,
    ),
}
CONVNEXTS: dict[str, ConvNeXtConfig] = {
    "convnext_tiny": ConvNeXtConfig((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ConvNeXtConfig((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ConvNeXtConfig((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": ConvNeXtConfig((3, 3, 27, 3), (192, 384, 768, 1536)),
}
ARCHITECTURES: dict[str, ModelConfig] = {**VITS, **CONVNEXTS}


@dataclass(frozen=True)
class ReleasedModel:
    """One released checkpoint: its names, and what it contains."""

    name: str  # torch.hub entry of the official repository; "_sat" marks the satellite files of ViT-L and 7B
    arch: str  # key of ARCHITECTURES
    dataset: str  # lvd1689m | sat493m: decides the input mean and std (docs/spec.md 6)
    config: ModelConfig
    params: int
    entries: int  # tensors in the official state dict
    file_stem: str  # official file name without ".pth"; its last 8 hex digits begin the file's SHA-256
    hf_repo: str | None  # gated: needs a token and an accepted licence
    timm_name: str | None  # mirror, not gated: huggingface.co/timm/<timm_name>

    @property
    def hash_prefix(self) -> str:
        return self.file_stem.rsplit("-", 1)[1]


def _row(
    name: str,
    arch: str,
    params: int,
    entries: int,
    hash_prefix: str,
    timm: str | None,  # up to the data set
    *,
    sat: bool = False,
    on_hf: bool = True,
) -> ReleasedModel:
    dataset = "sat493m" if sat else "lvd1689m"
    config = ARCHITECTURES[arch]
    if sat:  # both SAT files carry local_cls_norm; of the LVD files only the 7B does
        config = replace(VITS[arch], untie_global_and_local_cls_norm=True)
    stem = f"{name.removesuffix('_sat')}_pretrain_{dataset}"
    return ReleasedModel(
        name=name,
        arch=arch,
        dataset=dataset,
        config=config,
        params=params,
        entries=entries,
        file_stem=f"{stem}-{hash_prefix}",
        hf_repo="facebook/" + stem.replace("_", "-") if on_hf else None,
        timm_name=f"{timm}{dataset}" if timm else None,
    )


RELEASED: tuple[ReleasedModel, ...] = (
    _row("dinov3_vits16", "vit_small", 21_601_152, 188, "08c60483", "vit_small_patch16_dinov3."),
    _row(
        "dinov3_vits16plus", "vit_small_plus", 28_697_472, 212, "4057cbaa", "vit_small_plus_patch16_dinov3."
    ),
    _row("dinov3_vitb16", "vit_base", 85_669_632, 188, "73cec8be", "vit_base_patch16_dinov3."),
    _row("dinov3_vitl16", "vit_large", 303_154_176, 368, "8aa4cbdd", "vit_large_patch16_dinov3."),
    _row(
        "dinov3_vitl16_sat", "vit_large", 303_156_224, 370, "eadcf0ff", "vit_large_patch16_dinov3.", sat=True
    ),
    _row("dinov3_vitl16plus", "vit_large_plus", 403_915_776, 416, "46503df0", None, on_hf=False),
    _row("dinov3_vith16plus", "vit_huge_plus", 840_633_600, 552, "7c1da9a5", "vit_huge_plus_patch16_dinov3."),
    _row("dinov3_vit7b16", "vit_7b", 6_716_043_264, 610, "a955f4ea", "vit_7b_patch16_dinov3."),
    _row("dinov3_vit7b16_sat", "vit_7b", 6_716_043_264, 610, "a6675841", "vit_7b_patch16_dinov3.", sat=True),
    _row("dinov3_convnext_tiny", "convnext_tiny", 27_820_128, 182, "21b726bb", "convnext_tiny.dinov3_"),
    _row("dinov3_convnext_small", "convnext_small", 49_454_688, 344, "296db49d", "convnext_small.dinov3_"),
    _row("dinov3_convnext_base", "convnext_base", 87_566_464, 344, "801f2ba9", "convnext_base.dinov3_"),
    _row("dinov3_convnext_large", "convnext_large", 196_230_336, 344, "61fa432d", "convnext_large.dinov3_"),
)


def get_architecture(arch: str) -> ModelConfig:
    """Configuration for an `--arch` name. Raises `ConfigError` for an unknown one."""
    if arch not in ARCHITECTURES:
        raise ConfigError(f"unknown architecture {arch!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch]


def find_released(name: str, dataset: str | None = None) -> ReleasedModel | None:
    """The released checkpoint behind an `--arch`, torch.hub, Hugging Face or timm name, or None.

    For an `--arch` with two files (ViT-L, 7B), `dataset` chooses; the default is LVD-1689M.
    """
    for row in RELEASED:
        exact = name in (row.name, row.hf_repo, row.timm_name, row.file_stem)
        by_arch = name == row.arch and row.dataset == (dataset or "lvd1689m")
        if exact or by_arch:
            return row
    return None
