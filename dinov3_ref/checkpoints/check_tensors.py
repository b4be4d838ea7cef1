"""Check a checkpoint's tensors: exactly the expected keys and shapes, float types, finite values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dinov3_ref.checkpoints.tensor_shapes import Shape
from dinov3_ref.errors import KeyMismatch

NAMED_KEYS = 3  # keys named in a message; the others are counted
FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_keys(tensors: Mapping[str, Tensor], expected: Mapping[str, Shape], name: str) -> None:
    """Raise `KeyMismatch` unless `tensors` has exactly the keys and shapes of `expected`."""
    missing = [key for key in expected if key not in tensors]
    extra = [key for key in tensors if key not in expected]
    misshapen = [key for key in expected if key in tensors and tuple(tensors[key].shape) != expected[key]]
    wrong = [*misshapen, *missing, *extra]
    if not wrong:
        return

    def describe(key: str) -> str:
        want = list(expected[key]) if key in expected else "nothing"
        have = list(tensors[key].shape) if key in tensors else "nothing"
        return f"{key} expected {want} found {have}"

    named = ", ".join(describe(key) for key in wrong[:NAMED_KEYS])
    more = f", and {len(wrong) - NAMED_KEYS} more" if len(wrong) > NAMED_KEYS else ""
    raise KeyMismatch(
        f"{name}: {len(missing)} tensors missing, {len(extra)} left over, {len(misshapen)} of another shape: "
        f"{named}{more}"
    )


def check_values(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raise `KeyMismatch` for a tensor that is sparse, has no data, is not of a float type, or not finite."""
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise KeyMismatch(f"{name}: {key} is sparse or has no data; wanted a dense tensor")
        if tensor.dtype not in FLOAT_TYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise KeyMismatch(
                f"{name}: {key} is {kind}; wanted float32, bfloat16, float16 or float64 weights"
            )
        low, high = torch.aminmax(tensor) if tensor.numel() else (tensor.sum(), tensor.sum())
        if bool(torch.isfinite(low) & torch.isfinite(high)):
            continue
        if key.endswith("bias_mask"):  # docs/spec.md 0, fact 3
            raise KeyMismatch(
                f"{name}: {key} is not finite: the mask was never initialised, as in early snapshots of the "
                "official code; save the model again after init_weights()"
            )
        raise KeyMismatch(f"{name}: {key} holds NaN or infinity; wanted finite weights, fetch the file again")
