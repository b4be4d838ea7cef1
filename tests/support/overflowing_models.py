"""Small models that overflow at one known site, or lose resolution in int8: edits of a random checkpoint.

Each edit states where the first value past 65,504 appears. Later values overflow too, so only the first site
is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dinov3_ref.checkpoints import Checkpoint, random_checkpoint
from tests.support.tiny_models import tiny_config

CHANNELS = [3, 40]  # of the residual stream, or of a value inside a block


def edited(checkpoint: Checkpoint, key: str, change: Callable[[Tensor], None]) -> Checkpoint:
    """`checkpoint` with one tensor changed; the original is not changed."""
    tensor = checkpoint.state[key].clone()
    change(tensor)
    return replace(checkpoint, state={**checkpoint.state, key: tensor})


def rows_times(factor: float) -> Callable[[Tensor], None]:
    """CHANNELS' entries of a vector, or rows of a matrix, times `factor`."""

    def change(tensor: Tensor) -> None:
        tensor[CHANNELS] *= factor

    return change


def last_linear(checkpoint: Checkpoint) -> str:
    return "mlp.fc2" if checkpoint.config.ffn_layer == "mlp" else "mlp.w3"


# ---- one site each ----------------------------------------------------------------------------


def gentle(kind: str = "mlp") -> Checkpoint:
    """Nothing near any limit."""
    return random_checkpoint(tiny_config(kind))


def massive_product(kind: str = "mlp") -> Checkpoint:
    """Block 0's last product, and from there the residual stream."""
    checkpoint = gentle(kind)
    return edited(checkpoint, f"blocks.0.{last_linear(checkpoint)}.weight", rows_times(1e5))


def massive_gain(kind: str = "mlp") -> Checkpoint:
    """LayerScale of block 1; the product before it is harmless."""
    return edited(gentle(kind), "blocks.1.ls2.gamma", rows_times(1e6))


def massive_norm(kind: str = "mlp") -> Checkpoint:
    """Block 2's first norm, undone by the weights that read it."""
    checkpoint = edited(gentle(kind), "blocks.2.norm1.weight", rows_times(1e6))
    checkpoint = edited(checkpoint, "blocks.2.norm1.bias", rows_times(1e6))

    def undo(weight: Tensor) -> None:
        weight[:, CHANNELS] *= 1e-6

    return edited(checkpoint, "blocks.2.attn.qkv.weight", undo)


def massive_patches(kind: str = "mlp") -> Checkpoint:
    """The patch embedding itself."""
    return edited(gentle(kind), "patch_embed.proj.bias", rows_times(1e7))


def massive_end(kind: str = "mlp") -> Checkpoint:
    """The final norm."""
    return edited(gentle(kind), "norm.weight", rows_times(1e6))


def massive_values(kind: str = "mlp") -> Checkpoint:
    """v of block 1, which no power of two can bring into range: it goes into attention as it is."""
    checkpoint = gentle(kind)
    width = checkpoint.config.embed_dim
    return edited(checkpoint, "blocks.1.attn.qkv.weight", lambda w: w[2 * width :].mul_(1e5))


def massive_queries(factor: float, kind: str = "mlp") -> Checkpoint:
    """q of block 1 times `factor` and k by it: the logits stay what they were."""
    checkpoint = gentle(kind)
    width = checkpoint.config.embed_dim

    def change(tensor: Tensor) -> None:
        tensor[:width] *= factor
        tensor[width : 2 * width] /= factor

    checkpoint = edited(checkpoint, "blocks.1.attn.qkv.weight", change)
    return edited(checkpoint, "blocks.1.attn.qkv.bias", change) if checkpoint.config.qkv_bias else checkpoint


def sharp_attention(factor: float, kind: str = "mlp") -> Checkpoint:
    """q and k of block 1 times `factor`: logits grow by its square, everything else stays small."""
    checkpoint = gentle(kind)
    width = checkpoint.config.embed_dim
    checkpoint = edited(checkpoint, "blocks.1.attn.qkv.weight", lambda w: w[: 2 * width].mul_(factor))
    if not checkpoint.config.qkv_bias:
        return checkpoint
    return edited(checkpoint, "blocks.1.attn.qkv.bias", lambda b: b[: 2 * width].mul_(factor))


# name -> (checkpoint, where a plain cast overflows first, or None)
OVERFLOWS: dict[str, tuple[Callable[[str], Checkpoint], str | None]] = {
    "gentle": (gentle, None),
    "massive product": (massive_product, "blocks.0.{last} output"),
    "massive gain": (massive_gain, "blocks.1.{last} after ls2"),
    "massive norm": (massive_norm, "blocks.2.norm1 output"),
    "massive patches": (massive_patches, "patch_embed output"),
    "massive end": (massive_end, "norm output"),
    "massive values": (massive_values, "blocks.1.attn.v output"),
    "massive queries": (lambda kind: massive_queries(3e5, kind), "blocks.1.attn.q output"),
    "sharp attention": (lambda kind: sharp_attention(300.0, kind), None),  # fused: logits stay in fp32
}


def skewed(factor: float, kind: str = "mlp") -> Checkpoint:
    """Four channels of every norm times `factor`, undone in the weights that read them.

    The function stays the same in exact arithmetic; per-tensor int8 loses the other channels.
    """
    checkpoint = gentle(kind)
    state = dict(checkpoint.state)
    ffn = ("mlp.fc1",) if checkpoint.config.ffn_layer == "mlp" else ("mlp.w1", "mlp.w2")
    for block in range(checkpoint.config.depth):
        for norm, readers in (("norm1", ("attn.qkv",)), ("norm2", ffn)):
            gains = torch.ones(checkpoint.config.embed_dim)
            gains[:4] = factor
            for name in ("weight", "bias"):
                state[f"blocks.{block}.{norm}.{name}"] = state[f"blocks.{block}.{norm}.{name}"] * gains
            for reader in readers:
                key = f"blocks.{block}.{reader}.weight"
                state[key] = state[key] / gains
    return replace(checkpoint, state=state)
