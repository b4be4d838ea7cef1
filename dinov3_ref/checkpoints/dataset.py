"""Find the data set a checkpoint was trained on, which decides input mean and std (docs/spec.md 1.3, 3.5, 6).

In order of preference: the hash of a released file, the normalisation in a JSON file beside the weights, the
file's name, and the shapes if only one released checkpoint has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dinov3_ref.checkpoints.checkpoint import Channels
from dinov3_ref.checkpoints.files import json_object
from dinov3_ref.models.config import ModelConfig, ViTConfig
from dinov3_ref.models.released import RELEASED

# data set -> (mean, std) of its models' inputs, RGB in 0..1 (docs/spec.md 6).
NORMALIZATION: dict[str, tuple[Channels, Channels]] = {
    "lvd1689m": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "sat493m": ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143)),
}
META_LICENCE = "dinov3-license"  # the licence's name on the hub and in timm
TOLERANCE = 1e-3  # the JSON files round differently; the two data sets are 0.04 apart


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

    `untied`: whether the file has `local_cls_norm`; None if its layout cannot store it.
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
        if all(abs(a - b) < TOLERANCE for a, b in zip(mean, known, strict=True)):
            return dataset, None
    return None, f"data set unknown: input mean {mean} beside the weights is not one of DINOv3's"


def _by_shape(arch: str, untied: bool | None) -> tuple[str | None, str | None]:
    rows = [row for row in RELEASED if row.arch == arch]
    fitting = {r.dataset for r in rows if untied is None or untied == _is_untied(r.config)}
    if len(fitting) == 1:
        dataset = fitting.pop()
        return dataset, f"data set taken to be {dataset}: the only released {arch} with these tensors"
    if fitting:
        return None, f"data set unknown: {arch} was released for {' and '.join(sorted(fitting))}"
    return None, None


def _is_untied(config: ModelConfig) -> bool:
    return isinstance(config, ViTConfig) and config.untie_global_and_local_cls_norm


def _channels(value: Any) -> Channels | None:
    """Three numbers from a JSON file, or None for anything else."""
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        return None
    return float(value[0]), float(value[1]), float(value[2])
