"""dino.txt in plain numpy and float64, written from docs/spec.md alone: an independent reference.

Shapes: B batch, H W pixels, p patch size, h w patch grid, L tokens, D width, N heads, d head size, T texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def as_float64(state: Mapping[str, Any]) -> dict[str, Array]:
    """Tensors of a state dict as float64 arrays."""
    return {name: tensor.detach().double().numpy() for name, tensor in state.items()}


def linear(x: Array, weights: Weights, name: str) -> Array:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def layer_norm(x: Array, weights: Weights, name: str, eps: float = 1e-5) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    unit = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + eps)
    return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))


def silu(x: Array) -> Array:
    return x / (1.0 + np.exp(-x))


def rope(h: int, w: int, periods: Array) -> tuple[Array, Array]:
    """docs/spec.md 2.2, normalised separately: sin and cos [h*w, d]."""
    rows = 2.0 * ((np.arange(h) + 0.5) / h) - 1.0
    columns = 2.0 * ((np.arange(w) + 0.5) / w) - 1.0
    angles = np.empty((h, w, 2, len(periods)))
    angles[:, :, 0] = (2 * np.pi * rows)[:, None, None] / periods
    angles[:, :, 1] = (2 * np.pi * columns)[None, :, None] / periods
    flat = angles.reshape(h * w, -1)
    full = np.concatenate([flat, flat], axis=-1)
    return np.sin(full), np.cos(full)


def rotate(x: Array, sin: Array, cos: Array) -> Array:
    """The last tokens of x [B,N,L,d]; those before them stay."""
    start = x.shape[2] - len(sin)
    tail = x[:, :, start:]
    half = tail.shape[-1] // 2
    turned = np.concatenate([-tail[..., half:], tail[..., :half]], axis=-1)
    return np.concatenate([x[:, :, :start], tail * cos + turned * sin], axis=2)


def attention(
    x: Array, weights: Weights, name: str, heads: int, table: Any = None, causal: bool = False
) -> Array:
    B, L, D = x.shape
    qkv = x @ weights[f"{name}.qkv.weight"].T
    if f"{name}.qkv.bias" in weights:
        bias = weights[f"{name}.qkv.bias"]
        qkv = qkv + bias * weights.get(f"{name}.qkv.bias_mask", np.ones_like(bias))
    q, k, v = qkv.reshape(B, L, 3, heads, D // heads).transpose(2, 0, 3, 1, 4)
    if table is not None:
        q, k = rotate(q, *table), rotate(k, *table)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(D // heads)
    if causal:
        scores = np.where(np.tri(L, dtype=bool), scores, -np.inf)
    return linear((softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(B, L, D), weights, f"{name}.proj")


def scaled(x: Array, weights: Weights, name: str) -> Array:
    return x * weights[f"{name}.gamma"] if f"{name}.gamma" in weights else x


def vit_block(x: Array, weights: Weights, name: str, heads: int, table: Any = None) -> Array:
    y = attention(layer_norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn", heads, table)
    x = x + scaled(y, weights, f"{name}.ls1")
    y = layer_norm(x, weights, f"{name}.norm2")
    if f"{name}.mlp.w1.weight" in weights:
        y = silu(linear(y, weights, f"{name}.mlp.w1")) * linear(y, weights, f"{name}.mlp.w2")
        y = linear(y, weights, f"{name}.mlp.w3")
    else:
        y = linear(gelu(linear(y, weights, f"{name}.mlp.fc1")), weights, f"{name}.mlp.fc2")
    return x + scaled(y, weights, f"{name}.ls2")


def backbone(pixels: Array, weights: Weights, heads: int) -> tuple[Array, Array, Array]:
    """Pixels [B,3,H,W] -> normed CLS [B,D], storage tokens [B,R,D], patches [B,h,w,D]."""
    kernel = weights["patch_embed.proj.weight"]
    B, C, H, W = pixels.shape
    D, _, p, _ = kernel.shape
    h, w = H // p, W // p
    patches = pixels.reshape(B, C, h, p, w, p).transpose(0, 2, 4, 1, 3, 5).reshape(B, h * w, -1)
    patches = patches @ kernel.reshape(D, -1).T + weights["patch_embed.proj.bias"]
    prefix = [np.broadcast_to(weights["cls_token"], (B, 1, D))]
    if "storage_tokens" in weights:
        prefix.append(np.broadcast_to(weights["storage_tokens"], (B, *weights["storage_tokens"].shape[1:])))
    x = np.concatenate([*prefix, patches], axis=1)
    table = rope(h, w, weights["rope_embed.periods"])
    for index in range(1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))):
        x = vit_block(x, weights, f"blocks.{index}", heads, table)
    x = layer_norm(x, weights, "norm")
    start = x.shape[1] - h * w
    return x[:, 0], x[:, 1:start], x[:, start:].reshape(B, h, w, D)


def encode_image(pixels: Array, vit: Weights, head: Weights, heads: int) -> tuple[Array, Array, Array]:
    """Image embeddings [B,2D], patch embeddings [B,h,w,D], and the backbone's patches [B,h,w,D]."""
    cls, storage, patches = backbone(pixels, vit, heads)
    B, h, w, D = patches.shape
    x = np.concatenate([cls[:, None], storage, patches.reshape(B, h * w, D)], axis=1)
    prefix = "visual_model.head"
    blocks = {int(name.split(".")[3]) for name in head if name.startswith(f"{prefix}.blocks.")}
    for index in sorted(blocks):
        x = vit_block(x, head, f"{prefix}.blocks.{index}", D // 64)
    x = layer_norm(x, head, f"{prefix}.ln_final")
    aligned = x[:, x.shape[1] - h * w :]
    return np.concatenate([x[:, 0], aligned.mean(axis=1)], axis=1), aligned.reshape(B, h, w, D), patches


def encode_text(ids: NDArray[np.int64], head: Weights) -> Array:
    """Token ids [T,L] -> text embeddings [T,E]."""
    prefix = "text_model.backbone"
    x = head[f"{prefix}.token_embedding.weight"][ids] + head[f"{prefix}.positional_embedding"][: ids.shape[1]]
    heads = x.shape[-1] // 64
    blocks = {int(name.split(".")[3]) for name in head if name.startswith(f"{prefix}.blocks.")}
    for index in sorted(blocks):
        name = f"{prefix}.blocks.{index}"
        y = layer_norm(x, head, f"{name}.attention_norm")
        y = attention(y, head, f"{name}.attention", heads, causal=True)
        x = x + scaled(y, head, f"{name}.ls1")
        y = layer_norm(x, head, f"{name}.ffn_norm")
        y = linear(gelu(linear(y, head, f"{name}.feed_forward.fc1")), head, f"{name}.feed_forward.fc2")
        x = x + scaled(y, head, f"{name}.ls2")
    x = layer_norm(x, head, f"{prefix}.ln_final")
    ends = [list(row).index(max(row)) for row in ids]
    return x[np.arange(len(ids)), ends] @ head["text_model.head.linear_projection.weight"].T


def relative(got: Any, wanted: Array) -> float:
    return float(np.linalg.norm(np.asarray(got, np.float64) - wanted) / np.linalg.norm(wanted))
