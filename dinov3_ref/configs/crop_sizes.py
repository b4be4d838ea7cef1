"""Crops against the stride of who sees them (docs/spec.md 2.19): a ConvNeXt has one patch for 32 x 32 pixels.

Its patches are resized to the grid of a ViT's, which is only right where they cover the crop to its edges.
"""

from __future__ import annotations

from typing import Any

from dinov3_ref.errors import ConfigError
from dinov3_ref.models.released import CONVNEXTS


def check_global_crops(crops: Any, arch: str, who: str, scale: float = 1.0) -> None:
    """Raises `ConfigError` where a ConvNeXt's patches leave a part of the global crops out.

    who: the sentence's subject. scale: by which the crops become smaller before they are seen.
    """
    stride = _stride(arch)
    for size in _sizes(crops.global_crops_size):
        if int(size / scale) % stride:
            raise ConfigError(
                f"crops.global_crops_size is {size}, of which {who} {arch} sees {int(size / scale)} px; "
                f"wanted a multiple of its stride there ({stride})"
            )


def check_local_crops(crops: Any, arch: str, scale: float) -> None:
    """Raises `ConfigError` for crops without a patch. Pixels may go unseen: only the mean is learnt from."""
    stride = _stride(arch)
    for size in _sizes(crops.local_crops_size):
        if int(size / scale) < stride:
            raise ConfigError(
                f"crops.local_crops_size is {size}, of which {arch} sees {int(size / scale)} px; wanted its "
                f"stride there ({stride}) or more"
            )


def stride_in_config(student: Any) -> int:
    """Pixels from one patch of the student to the next."""
    return _stride(student.arch, of_vit=student.patch_size)


def _stride(arch: str, of_vit: int = 1) -> int:
    return CONVNEXTS[arch].stride if arch in CONVNEXTS else of_vit


def _sizes(value: Any) -> list[Any]:
    return [value] if isinstance(value, (int, float)) else list(value)
