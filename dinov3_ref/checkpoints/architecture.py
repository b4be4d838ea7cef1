"""Infer the architecture of a checkpoint from tensor shapes, and the data set it was trained on.

Source: docs/spec.md 1.3, 3.5, 6. The data set decides input mean and std.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dinov3_ref.checkpoints.checkpoint import Channels
from dinov3_ref.checkpoints.files import json_object
from dinov3_ref.checkpoints.layouts.official import OfficialLayout
from dinov3_ref.checkpoints.tensor_shapes import Shape, expected_shapes
from dinov3_ref.errors import ArchMismatch, ConfigError, KeyMismatch
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig, ViTConfig
from dinov3_ref.models.released import ARCHITECTURES, CONVNEXTS, RELEASED, VITS, ReleasedModel, find_released

CUSTOM = "custom"

# For files without periods and config.json: all released models but the 7B have head_dim 64.
DEFAULT_HEAD_DIM = 64
WIDE_HEAD_DIM = {4096: 128}


def infer_config(
    layout: OfficialLayout, shapes: Mapping[str, Shape], hints: Mapping[str, Any], name: str
) -> ViTConfig:
    """The configuration of a ViT file: a bias or norm that the file lacks is off.

    Reads only a few shapes; `check_keys` checks that the others agree. Raises `KeyMismatch` if one of
    the few is missing or impossible, with the file's name for it.
    """

    def shape(official_key: str, rank: int) -> Shape:
        found = shapes.get(layout.spell(official_key))
        if found is None or len(found) != rank or 0 in found:
            got = "it is missing" if found is None else f"found {list(found)}"
            raise KeyMismatch(
                f"{name}: {layout.spell(official_key)} should be a tensor of {rank} axes; {got}"
            )
        return found

    def has(official_stem: str) -> bool:
        return any(layout.spell(f"blocks.{index}.{official_stem}") in shapes for index in range(depth))

    depth = _depth(layout, shapes, name)
    embed_dim = shape("cls_token", 3)[-1]
    swiglu = has("mlp.w1.weight")
    width = _ffn_rows(layout, shapes, depth, "mlp.w1.weight" if swiglu else "mlp.fc1.weight", name)
    _, in_chans, patch_size, _ = shape("patch_embed.proj.weight", 4)
    storage = layout.spell("storage_tokens") in shapes
    qkv_bias, mask_k_bias = layout.biases(shapes.keys())
    norm_layer = "layernormbf16" if layout.spell("norm.bias") in shapes else "rmsnorm"
    fields: dict[str, Any] = {
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": _num_heads(embed_dim, shapes.get(layout.spell("rope_embed.periods")), hints, name),
        "ffn_layer": "swiglu" if swiglu else "mlp",
        "ffn_ratio": _ffn_ratio(embed_dim, width, swiglu),
        "qkv_bias": qkv_bias,
        "mask_k_bias": mask_k_bias,
        "proj_bias": has("attn.proj.bias"),
        "ffn_bias": has("mlp.w1.bias" if swiglu else "mlp.fc1.bias"),
        "layerscale_init": 1e-5 if has("ls1.gamma") else None,
        "n_storage_tokens": shape("storage_tokens", 3)[1] if storage else 0,
        "untie_cls_and_patch_norms": layout.spell("cls_norm.weight") in shapes,
        "untie_global_and_local_cls_norm": layout.spell("local_cls_norm.weight") in shapes,
        "in_chans": in_chans,
        "patch_size": patch_size,
        "norm_layer": norm_layer,
    }
    try:
        return ViTConfig.from_dict({**fields, **hints})
    except ConfigError as error:
        raise KeyMismatch(f"{name} describes no model: {error}") from error


# Fields of `ViTConfig` that change what a model computes or how it is trained, but no tensor's shape.
UNSEEN = (
    "norm_layer",
    "pos_embed_rope_base",
    "pos_embed_rope_min_period",
    "pos_embed_rope_max_period",
    "pos_embed_rope_normalize_coords",
    "pos_embed_rope_shift_coords",
    "pos_embed_rope_jitter_coords",
    "pos_embed_rope_rescale_coords",
    "pos_embed_rope_dtype",
    "drop_path_rate",
    "img_size",
)


def name_architecture(config: ModelConfig, *, biases_may_lack: bool) -> tuple[str, ModelConfig]:
    """Key of `ARCHITECTURES` with the same tensors and its configuration; else "custom" and `config`.

    Tensors that inference does not use are ignored: the bias mask and `local_cls_norm`. With
    `biases_may_lack`, a missing qkv bias is ignored too, for layouts that drop zero biases.
    """
    if isinstance(config, ConvNeXtConfig):
        shapes = expected_shapes(config)
        same = (arch for arch, known in CONVNEXTS.items() if expected_shapes(known) == shapes)
        return next(same, CUSTOM), config
    wanted = _core_shapes(config)
    for arch, known in VITS.items():
        lacking = biases_may_lack and not config.qkv_bias and known.qkv_bias
        if wanted != _core_shapes(replace(known, qkv_bias=False) if lacking else known):
            continue
        own = replace(
            known,
            mask_k_bias=config.mask_k_bias,
            untie_global_and_local_cls_norm=config.untie_global_and_local_cls_norm,
            **{field: getattr(config, field) for field in UNSEEN},
        )
        return arch, own
    return CUSTOM, config


def check_architecture(asked: str, arch: str, dataset: str | None, config: ModelConfig, name: str) -> None:
    """Raise `ArchMismatch` unless the file is the model called `asked`, which may be any name of a model.

    If the name includes a data set (Hugging Face and timm names do), it must match the file's, if known.
    """
    row = find_asked(asked)
    wanted = row.arch if row else asked
    if wanted not in ARCHITECTURES:
        raise ConfigError(f"unknown architecture {asked!r}; known: {', '.join(ARCHITECTURES)}")
    says_dataset = row is not None and (row.dataset in asked or asked.endswith("_sat"))
    other_dataset = row is not None and says_dataset and dataset not in (None, row.dataset)
    if wanted == arch and not other_dataset:
        return
    held = f"{arch} ({_shape_in_words(config)}{f', {dataset}' if dataset else ''})"
    fix = "leave --arch out" if arch == CUSTOM else f"give --arch {arch}"
    raise ArchMismatch(f"{name} holds {held}, but {asked} was asked for; {fix} or give another file")


def _shape_in_words(config: ModelConfig) -> str:
    if isinstance(config, ConvNeXtConfig):
        return f"depths {list(config.depths)}, dims {list(config.dims)}"
    return f"embed_dim {config.embed_dim}, depth {config.depth}, {config.num_heads} heads, {config.ffn_layer}"


def find_asked(name: str) -> ReleasedModel | None:
    """`find_released`, which also accepts timm's names with their organisation (`timm/…`)."""
    return find_released(name.removeprefix("timm/"))


def _core_shapes(config: ViTConfig) -> dict[str, Shape]:
    return expected_shapes(replace(config, untie_global_and_local_cls_norm=False, mask_k_bias=False))


def _depth(layout: OfficialLayout, shapes: Mapping[str, Shape], name: str) -> int:
    """1 + the highest block index. Raises `KeyMismatch` if it exceeds the number of tensors."""
    pattern = re.compile(re.escape(layout.block_prefix) + r"(\d{1,18})\.")
    depth = 1 + max((int(m[1]) for key in shapes if (m := pattern.match(key))), default=-1)
    if not 1 <= depth <= len(shapes):
        raise KeyMismatch(
            f"{name} has block indices up to {depth - 1} in {len(shapes)} tensors; "
            f"wanted {layout.block_prefix}0 onwards, without gaps"
        )
    return depth


def _num_heads(embed_dim: int, periods: Shape | None, hints: Mapping[str, Any], name: str) -> int:
    head_dim = WIDE_HEAD_DIM.get(embed_dim, DEFAULT_HEAD_DIM)
    if periods is not None and len(periods) == 1:
        head_dim = 4 * periods[0]
    heads, rest = divmod(embed_dim, head_dim) if head_dim else (0, 1)
    if rest and "num_heads" not in hints:
        raise KeyMismatch(
            f"{name}: embed_dim {embed_dim} is not a multiple of head_dim {head_dim}, so the number of "
            "heads is unknown; keep the config.json beside the weights"
        )
    return max(heads, 1)


def _ffn_rows(layout: OfficialLayout, shapes: Mapping[str, Shape], depth: int, stem: str, name: str) -> int:
    """FFN width of the first block that has one. Raises `KeyMismatch` if no block has."""
    for index in range(depth):
        found = shapes.get(layout.spell(f"blocks.{index}.{stem}"))
        if found is not None and len(found) == 2:
            return found[0]
    raise KeyMismatch(f"{name}: {layout.spell(f'blocks.0.{stem}')} is missing; wanted the FFN of every block")


def _ffn_ratio(embed_dim: int, width: int, swiglu: bool) -> float:
    """A ratio for which `ffn_width` returns `width` (if SwiGLU can have that width)."""
    hidden = -(-width * 3 // 2) if swiglu else width
    ratio = hidden / embed_dim
    return ratio if int(embed_dim * ratio) == hidden else (hidden + 0.5) / embed_dim


# data set -> (mean, std) of its models' inputs, RGB in 0..1 (docs/spec.md 6).
NORMALIZATION: dict[str, tuple[Channels, Channels]] = {
    "lvd1689m": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "sat493m": ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143)),
}
META_LICENCE = "dinov3-license"  # the licence's name on the hub and in timm
MEAN_TOLERANCE = 1e-3  # the JSON files round differently; the two data sets are 0.04 apart


def sidecar_normalization(sidecars: Mapping[str, Mapping[str, Any]]) -> tuple[Channels, Channels] | None:
    """(mean, std) from Hugging Face's preprocessor_config.json or timm's config.json; None without either."""
    processor = sidecars.get("preprocessor_config.json", {})
    pretrained = json_object(sidecars.get("config.json", {}), "pretrained_cfg")
    for source, prefix in ((processor, "image_"), (pretrained, "")):
        mean, std = _channels(source.get(f"{prefix}mean")), _channels(source.get(f"{prefix}std"))
        if mean and std:
            return mean, std
    return None


def sidecar_licence(sidecars: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Licence of the weights from timm's config.json, or None."""
    named = json_object(sidecars.get("config.json", {}), "pretrained_cfg").get("license")
    return named if isinstance(named, str) else None


def infer_dataset(
    name: str, sha256: str, normalization: tuple[Channels, Channels] | None, arch: str, untied: bool | None
) -> tuple[str | None, str | None]:
    """(data set or None, a note or None).

    In order of preference: the hash of a released file, the normalisation in a JSON file beside the weights,
    the file's name, and the shapes if only one released checkpoint has them. `untied`: whether the file has
    `local_cls_norm`; None if its layout cannot store it.
    """
    for row in RELEASED:
        if sha256.startswith(row.hash_prefix):
            return row.dataset, None
    if normalization is not None:
        return _by_mean(normalization[0])
    for row in RELEASED:
        if row.hash_prefix in name:
            return row.dataset, None
    named = [dataset for dataset in NORMALIZATION if dataset in name]
    if len(named) == 1:
        return named[0], None
    return _by_shape(arch, untied)


def _by_mean(mean: Channels) -> tuple[str | None, str | None]:
    for dataset, (known, _) in NORMALIZATION.items():
        if all(abs(a - b) < MEAN_TOLERANCE for a, b in zip(mean, known, strict=True)):
            return dataset, None
    return None, f"data set unknown: input mean {mean} beside the weights is not one of DINOv3's"


def _by_shape(arch: str, untied: bool | None) -> tuple[str | None, str | None]:
    rows = [row for row in RELEASED if row.arch == arch]
    fitting = {
        row.dataset
        for row in rows
        if untied in (None, getattr(row.config, "untie_global_and_local_cls_norm", False))
    }
    if len(fitting) == 1:
        dataset = fitting.pop()
        return dataset, f"data set taken to be {dataset}: the only released {arch} with these tensors"
    if fitting:
        return None, f"data set unknown: {arch} was released for {' and '.join(sorted(fitting))}"
    return None, None


def _channels(value: Any) -> Channels | None:
    """Three numbers from a JSON file, or None for anything else."""
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        return None
    return float(value[0]), float(value[1]), float(value[2])
