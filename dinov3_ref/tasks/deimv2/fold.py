"""Fold BatchNorm and the two branches of a RepVGG block into one convolution, in float64, rounded once.

Names in the file -> names here:

    X.conv.weight, X.norm.*                             X.conv.weight, X.conv.bias
    X.bottlenecks.I.conv1.*, X.bottlenecks.I.conv2.*    X.bottlenecks.I.conv.weight, X.bottlenecks.I.conv.bias

Shapes: C C' channels, k kernel.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.checkpoints.tensor_shapes import Shape

NORM = ("weight", "bias", "running_mean", "running_var")
_CONV = re.compile(r"(?P<stem>.+)\.conv\.weight")
_BRANCHED = re.compile(r".+\.bottlenecks\.\d+")


def unfolded_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes by the names here -> those that the file must have."""
    unfolded = dict(shapes)
    for stem in _stems(shapes):
        weight = unfolded.pop(f"{stem}.conv.weight")
        del unfolded[f"{stem}.conv.bias"]
        for branch, kernel in _branches(stem, weight[2]).items():
            unfolded[f"{branch}.conv.weight"] = (*weight[:2], kernel, kernel)
            unfolded |= {f"{branch}.norm.{name}": weight[:1] for name in NORM}
    return unfolded


def fold(tensors: Mapping[str, Tensor], names: Collection[str], eps: float) -> dict[str, Tensor]:
    """Tensors by the file's names -> float32 tensors by the `names` here."""
    folded = {key: tensor.float() for key, tensor in tensors.items() if key in names}
    for stem in _stems(names):
        weight, bias = zip(*(_fold_one(tensors, branch, eps) for branch in _branches(stem, 3)), strict=True)
        size = max(one.shape[-1] for one in weight)
        padded = [F.pad(one, [(size - one.shape[-1]) // 2] * 4) for one in weight]
        folded[f"{stem}.conv.weight"] = sum(padded[1:], padded[0]).float()
        folded[f"{stem}.conv.bias"] = sum(bias[1:], bias[0]).float()
    return folded


def _stems(names: Iterable[str]) -> list[str]:
    """Paths of the convolutions among the names here."""
    return [match["stem"] for name in names if (match := _CONV.fullmatch(name))]


def _branches(stem: str, kernel: int) -> dict[str, int]:
    """Paths in the file of what becomes one convolution -> kernel size."""
    if _BRANCHED.fullmatch(stem):
        return {f"{stem}.conv1": kernel, f"{stem}.conv2": 1}
    return {stem: kernel}


def _fold_one(tensors: Mapping[str, Tensor], path: str, eps: float) -> tuple[Tensor, Tensor]:
    """float64 weight [C',C,k,k] and bias [C'] of a convolution and its BatchNorm (arXiv:1502.03167)."""
    weight, scale, bias, mean, var = (
        tensors[f"{path}.{name}"].double() for name in ("conv.weight", *(f"norm.{name}" for name in NORM))
    )
    gain = scale / (var + eps).sqrt()
    return weight * gain[:, None, None, None], bias - mean * gain
