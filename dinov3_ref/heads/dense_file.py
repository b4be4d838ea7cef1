"""Linear segmentation and depth heads of the official evaluations, from tensors (docs/spec.md 5.4, 5.6).

    model.segmentation_model.1.{batchnorm_layer,conv}.*   -> LinearSegmenter of K classes
    model.{batchnorm_layer,conv_depth}.*                  -> LinearDepth of N bins

Written by the official trainings, with an optimiser beside `model`, and `module.` before every name from
several GPUs. The batch norm is optional. No tensor tells which blocks are read, nor the range of depths: the
last block and the range of NYU are assumed, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dinov3_ref.checkpoints.tensor_shapes import check_keys, check_values
from dinov3_ref.errors import CheckpointError
from dinov3_ref.heads.depth import LinearDepth
from dinov3_ref.heads.linear import LinearSegmenter

NYU_RANGE = (0.001, 10.0)  # metres
_PREFIX = re.compile(r"^(?:module\.)?(?:segmentation_model\.1\.)?")
_PARTS = {"batchnorm_layer": "batchnorm", "conv": "conv", "conv_depth": "conv"}
_COUNTER = "batchnorm.num_batches_tracked"

Dense = LinearSegmenter | LinearDepth


def dense_tensors(tree: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of such a head by their official names without prefixes; None for another file."""
    inner = tree.get("model", tree)
    if not isinstance(inner, Mapping) or not all(isinstance(value, Tensor) for value in inner.values()):
        return None
    tensors = {_PREFIX.sub("", str(key)): value for key, value in inner.items()}
    parts = {key.partition(".")[0] for key in tensors}
    return tensors if parts <= _PARTS.keys() and len(parts & {"conv", "conv_depth"}) == 1 else None


def dense_head(tensors: Mapping[str, Tensor], name: str) -> tuple[Dense, str, str]:
    """(head, kind, note) of these tensors. Raises CheckpointError, or KeyMismatch for missing tensors."""
    is_depth = any(key.startswith("conv_depth.") for key in tensors)
    weight = tensors.get("conv_depth.weight" if is_depth else "conv.weight")
    if weight is None or weight.dim() != 4 or weight.shape[2:] != (1, 1):
        raise CheckpointError(f"{name}: its convolution is no 1x1 convolution with a weight [K,C,1,1]")
    outputs, channels = weight.shape[:2]
    batchnorm = any(key.startswith("batchnorm_layer.") for key in tensors)
    head: Dense
    if is_depth:
        head = LinearDepth(channels, outputs, *NYU_RANGE, batchnorm=batchnorm)
    else:
        head = LinearSegmenter(channels, outputs, batchnorm=batchnorm)
    ours = {
        f"{_PARTS[stem]}.{rest}": t for key, t in tensors.items() for stem, _, rest in [key.partition(".")]
    }
    ours.pop(_COUNTER, None)
    wanted = {key: tuple(t.shape) for key, t in head.state_dict().items() if key != _COUNTER}
    check_keys(ours, wanted, name)
    check_values(ours, name)
    head.load_state_dict({key: tensor.float() for key, tensor in ours.items()}, strict=False)
    note = f"reads the last block, {channels} channels"
    if is_depth:
        return head, "linear_depth", f"{note}; depth range {NYU_RANGE[0]} to {NYU_RANGE[1]:g} m, as for NYU"
    return head, "linear_segmenter", note


def _our_name(key: str) -> str:
    stem, _, rest = key.partition(".")
    return f"{_PARTS[stem]}.{rest}"
