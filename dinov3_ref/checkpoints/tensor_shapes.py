"""Names and shapes of the tensors that a configuration must have, and checks of them (docs/spec.md 3.1).

Computed without building the model; a test compares both.
Symbols: D embed_dim, F FFN width, R storage tokens, p patch size, d head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dinov3_ref.checkpoints.layouts.convnext import Shape as Shape
from dinov3_ref.checkpoints.layouts.convnext import convnext_shapes
from dinov3_ref.errors import ConfigError, KeyMismatch
from dinov3_ref.layers.ffn_layers import swiglu_width
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig, ViTConfig

# FFN kind -> multiple that its width is rounded up to; "mlp" is not rounded (docs/spec.md 2.10).
SWIGLU_ALIGNMENT = {"swiglu": 8, "swiglu32": 32, "swiglu64": 64, "swiglu128": 128}


def ffn_width(config: ViTConfig) -> int:
    """FFN width F. Raises `ConfigError` for a user's FFN, whose width only its class knows."""
    hidden = int(config.embed_dim * config.ffn_ratio)
    if config.ffn_layer == "mlp":
        return hidden
    if config.ffn_layer not in SWIGLU_ALIGNMENT:
        raise ConfigError(
            f"ffn_layer {config.ffn_layer!r} has no known tensors; known: mlp, {', '.join(SWIGLU_ALIGNMENT)}"
        )
    return swiglu_width(hidden, SWIGLU_ALIGNMENT[config.ffn_layer])


def expected_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Official key -> shape of every tensor of the model, in no particular order."""
    if isinstance(config, ConvNeXtConfig):
        return convnext_shapes(config)
    D, p = config.embed_dim, config.patch_size
    shapes: dict[str, Shape] = {
        "cls_token": (1, 1, D),
        "mask_token": (1, D),
        "rope_embed.periods": (config.head_dim // 4,),
        "patch_embed.proj.weight": (D, config.in_chans, p, p),
        "patch_embed.proj.bias": (D,),
    }
    if config.n_storage_tokens:
        shapes["storage_tokens"] = (1, config.n_storage_tokens, D)
    for index in range(config.depth):
        shapes.update((f"blocks.{index}.{name}", shape) for name, shape in _block_shapes(config))
    norms = {
        "norm": True,
        "cls_norm": config.untie_cls_and_patch_norms,
        "local_cls_norm": config.untie_global_and_local_cls_norm,
    }
    for name, present in norms.items():
        if present:
            shapes.update(_norm_shapes(name, config))
    return shapes


def _block_shapes(config: ViTConfig) -> Iterator[tuple[str, Shape]]:
    D = config.embed_dim
    yield from _norm_shapes("norm1", config)
    yield from _norm_shapes("norm2", config)
    yield from _linear_shapes("attn.qkv", 3 * D, D, config.qkv_bias)
    if config.qkv_bias and config.mask_k_bias:
        yield "attn.qkv.bias_mask", (3 * D,)
    yield from _linear_shapes("attn.proj", D, D, config.proj_bias)
    F = ffn_width(config)
    into, out = (("fc1",), "fc2") if config.ffn_layer == "mlp" else (("w1", "w2"), "w3")
    for name in into:
        yield from _linear_shapes(f"mlp.{name}", F, D, config.ffn_bias)
    yield from _linear_shapes(f"mlp.{out}", D, F, config.ffn_bias)
    if config.layerscale_init:
        yield "ls1.gamma", (D,)
        yield "ls2.gamma", (D,)


def _linear_shapes(name: str, rows: int, columns: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _norm_shapes(name: str, config: ViTConfig) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (config.embed_dim,)
    if config.norm_layer != "rmsnorm":
        yield f"{name}.bias", (config.embed_dim,)


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
