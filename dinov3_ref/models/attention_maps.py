"""Attention weights of any block, without changing the model.

Source: docs/development/seed.md S57.

A forward hook sees only attention's output, and fused kernels never compute the weights. So the weights are
computed a second time, from attention's input; the model's outputs stay bit-identical.

Shapes: B images, N tokens (CLS, storage, patches), n heads, h w patch grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.layers.attention import SelfAttention
from dinov3_ref.models.vision_transformer import DinoVisionTransformer


@contextmanager
def record_attention(
    model: DinoVisionTransformer, layers: int | Sequence[int] = -1, *, queries: int | None = None
) -> Iterator[dict[int, Tensor]]:
    """While open, every forward pass stores the weights [B,n,N,N] of `layers` in the dict, by block index.

    Negative indices count from the last block. With `queries`, only the rows of the first `queries` tokens.
    Raises ValueError for a block that does not exist, `ConfigError` for a model in training mode and for a
    user's own attention without `attention_weights`.
    """
    if model.training:
        raise ConfigError(
            "the model is in training mode, where RoPE and drop path are random; call model.eval()"
        )
    found: dict[int, Tensor] = {}
    handles = []
    try:
        for index in _blocks(model, layers):
            attention = model.blocks[index].get_submodule("attn")
            if not knows_weights(attention):
                raise ConfigError(
                    f"attention of block {index} is a {type(attention).__name__}; its weights are unknown: "
                    "give the class attention_weights(x, rope, queries)"
                )
            watch = partial(_watch, found, index, queries)
            handles.append(attention.register_forward_pre_hook(watch, with_kwargs=True))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def attention_maps(
    model: DinoVisionTransformer, image: Tensor, layer_idx: int = -1, *, patches_only: bool = False
) -> Tensor:
    """Image [B,C,H,W] -> attention weights [B,n,N,N] of one block; each row sums to 1.

    With `patches_only`, the weights from CLS to the patches: [B,n,h,w]. Raises as `record_attention`.
    """
    with torch.no_grad(), record_attention(model, layer_idx, queries=1 if patches_only else None) as found:
        model.forward_features(image)
    (weights,) = found.values()
    if not patches_only:
        return weights
    h, w = (side // model.patch_size for side in image.shape[-2:])
    return weights[:, :, 0, -h * w :].unflatten(-1, (h, w))


def knows_weights(attention: nn.Module) -> bool:
    """Whether a class has `attention_weights` that match its attention.

    A subclass of `SelfAttention` that overrides `compute_attention` must override `attention_weights` too.
    """
    kind: Any = type(attention)
    if getattr(kind, "attention_weights", None) is not SelfAttention.attention_weights:
        return hasattr(kind, "attention_weights")
    return bool(kind.compute_attention is SelfAttention.compute_attention)


def _blocks(model: DinoVisionTransformer, layers: int | Sequence[int]) -> list[int]:
    asked = [layers] if isinstance(layers, int) else list(layers)
    depth = model.n_blocks
    for layer in asked:
        if not -depth <= layer < depth:
            raise ValueError(f"layer {layer} does not exist; the model has blocks 0..{depth - 1}")
    return sorted({layer % depth for layer in asked})


def _watch(
    found: dict[int, Tensor],
    index: int,
    queries: int | None,
    attention: Any,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
) -> None:
    rope = named.get("rope", inputs[2] if len(inputs) > 2 else None)
    found[index] = attention.attention_weights(inputs[0], rope, queries)
