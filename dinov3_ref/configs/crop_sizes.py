"""Check that crop sizes fit the stride of the model (docs/spec.md 2.19).

A ConvNeXt has one patch per 32 x 32 pixels. Its patches are resized to a ViT's grid, which is only correct if
they cover the crop to its edges.
"""

from __future__ import annotations

from typing import Any

from dinov3_ref.errors import ConfigError
from dinov3_ref.models.released import CONVNEXTS


def check_global_crops(crops: Any, arch: str, who: str, scale: float = 1.0) -> None:
    """Raise `ConfigError` if the patches of a ConvNeXt do not cover the global crops.

    who: subject of the error message. scale: factor by which crops are made smaller for the model.
    """
    stride = _stride(arch)
    for size in _sizes(crops.global_crops_size):
        if int(size / scale) % stride:
            raise ConfigError(
                f"crops.global_crops_size is {size}, of which {who} {arch} sees {int(size / scale)} px; "
                f"wanted a multiple of its stride ({stride}) after scaling"
            )


def check_local_crops(crops: Any, arch: str, scale: float) -> None:
    """Raise `ConfigError` for crops smaller than one patch. Only their mean is used: edges may be cut off."""
    stride = _stride(arch)
    for size in _sizes(crops.local_crops_size):
        if int(size / scale) < stride:
            raise ConfigError(
                f"crops.local_crops_size is {size}, of which {arch} sees {int(size / scale)} px; wanted at "
                f"least its stride ({stride}) after scaling"
            )


def stride_in_config(student: Any) -> int:
    """Pixels per patch side of the student."""
    return _stride(student.arch, of_vit=student.patch_size)


def _stride(arch: str, of_vit: int = 1) -> int:
    return CONVNEXTS[arch].stride if arch in CONVNEXTS else of_vit


def _sizes(value: Any) -> list[Any]:
    return [value] if isinstance(value, (int, float)) else list(value)
