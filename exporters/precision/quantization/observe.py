"""Groups of linear layers that share an input, and what the reference puts into them on calibration images.

A ViT block has four inputs to linear layers. Smoothing (SmoothQuant, arXiv:2211.10438, eq. 3) rescales an
input channel by channel. For three of them the factors fold into the weights that produce the input:

    norm1 ─> q, k, v        into the norm's gain and bias
    attention ─> proj       into the rows of v: attention mixes tokens, never channels
    norm2 ─> fc1, or w1 w2  into the norm's gain and bias
    hidden ─> fc2, or w3    into w2's rows in a SwiGLU; after a GELU nothing is linear: one Mul in the graph

A ConvNeXt block has the last two: norm ─> pwconv1, hidden ─> pwconv2.

Shapes: B images, L tokens, K input channels, T kept tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.layers import CausalSelfAttentionBlock, Mlp, SelfAttention, SwiGLUFFN
from dinov3_ref.models import named_blocks
from dinov3_ref.models.config import STAGES
from dinov3_ref.models.convnext import Block


@dataclass(frozen=True)
class Group:
    """Linear layers with one common input. Paths are the meta copy's, where qkv is split in q, k and v."""

    path: str  # name of the group: "blocks.3.attn.qkv"
    observed: str  # module of the reference whose input is the group's
    linears: tuple[str, ...]
    carriers: tuple[str, ...]  # weights whose rows can take the smoothing; if empty, the graph gets a Mul
    positions: int = 1  # positions of its input per patch of the output: more in a ConvNeXt's early stages


# class of a layer or block -> its groups: name, observed module, linear layers, what carries the smoothing
_GROUPS: dict[type[nn.Module], tuple[tuple[str, str, tuple[str, ...], str], ...]] = {
    SelfAttention: (
        ("attn.qkv", "attn.qkv", ("attn.q", "attn.k", "attn.v"), "norm1"),
        ("attn.proj", "attn.proj", ("attn.proj",), "attn.v"),
    ),
    Mlp: (("mlp.fc1", "mlp.fc1", ("mlp.fc1",), "norm2"), ("mlp.fc2", "mlp.fc2", ("mlp.fc2",), "")),
    SwiGLUFFN: (
        ("mlp.w12", "mlp.w1", ("mlp.w1", "mlp.w2"), "norm2"),
        ("mlp.w3", "mlp.w3", ("mlp.w3",), "mlp.w2"),
    ),
    CausalSelfAttentionBlock: (
        ("attention.qkv", "attention.qkv", ("attention.q", "attention.k", "attention.v"), "attention_norm"),
        ("attention.proj", "attention.proj", ("attention.proj",), "attention.v"),
        ("feed_forward.fc1", "feed_forward.fc1", ("feed_forward.fc1",), "ffn_norm"),
        ("feed_forward.fc2", "feed_forward.fc2", ("feed_forward.fc2",), ""),
    ),
    Block: (("pwconv1", "pwconv1", ("pwconv1",), "norm"), ("pwconv2", "pwconv2", ("pwconv2",), "")),
}


def find_groups(model: nn.Module, at: str = "") -> tuple[Group, ...]:
    """Groups of every block, in order. Layers of a user's own classes are in no group and keep 16 bits.

    at: module path of the backbone in a whole model.
    """
    groups = []
    for path, block in named_blocks(model):
        stage = path.split(".")[1]
        path = f"{at}.{path}" if at else path
        convnext = isinstance(block, Block)
        # each stage halves both sides of the map, so each has four times the positions of the next
        positions = 4 ** (STAGES - 1 - int(stage)) if convnext else 1
        whole = type(block) in _GROUPS  # else its parts have their own
        kinds = [type(block)] if whole else [type(block.get_submodule(name)) for name in ("attn", "mlp")]
        for name, observed, linears, carrier in (row for kind in kinds for row in _GROUPS.get(kind, ())):
            carriers = (f"{path}.{carrier}.weight", f"{path}.{carrier}.bias") if carrier else ()
            layers = tuple(f"{path}.{linear}" for linear in linears)
            groups.append(Group(f"{path}.{name}", f"{path}.{observed}", layers, carriers, positions))
    return tuple(groups)


KEPT_TOKENS = 512  # per group, from all images together


@dataclass
class Observation:
    """Inputs of one group: `tokens` [T,K], as many from each image, and `channel_max` [K] over all."""

    tokens: Tensor
    channel_max: Tensor


def observe(
    model: nn.Module,
    groups: Sequence[Group],
    batches: Iterable[Tensor],
    images: int,
    *,
    seed: int = 0,
    seen: Callable[[int], None] = lambda _: None,
) -> dict[str, Observation]:
    """Observations by group path. `batches` [B,3,H,W] are normalised pixels of `images` images in total.

    Keeps CLS of every image (in a ConvNeXt the first position of the map) and random tokens drawn with
    `seed`; groups with the same number of tokens keep the same ones. `seen` is called with the number of
    images so far after each batch. Groups that the model never runs have no observation.
    """
    each = max(2, -(-KEPT_TOKENS // max(images, 1)))
    generator = torch.Generator().manual_seed(seed)
    kept: dict[str, list[Tensor]] = {group.path: [] for group in groups}
    largest: dict[str, Tensor] = {}
    draws: dict[int, Tensor] = {}  # number of tokens -> kept indices, for one batch

    def hook(path: str) -> Any:
        def record(module: Any, inputs: tuple[Tensor, ...]) -> None:
            x_BLK = inputs[0].detach().flatten(1, -2)
            top = x_BLK.abs().amax(dim=(0, 1))
            largest[path] = torch.maximum(largest[path], top) if path in largest else top
            tokens = x_BLK.shape[1]
            if tokens not in draws:
                draws[tokens] = _draw_tokens(tokens, each, generator)
            kept[path].append(x_BLK[:, draws[tokens]].flatten(0, 1).clone())

        return record

    with ExitStack() as hooks, torch.inference_mode():
        for group in groups:
            module = model.get_submodule(group.observed)
            hooks.enter_context(module.register_forward_pre_hook(hook(group.path)))
        done = 0
        for batch in batches:
            draws.clear()
            model(batch)
            done += len(batch)
            seen(done)
    return {path: Observation(torch.cat(tokens), largest[path]) for path, tokens in kept.items() if tokens}


def _draw_tokens(tokens: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` token indices: the first token, and random ones; storage tokens are drawn like patches."""
    others = torch.randperm(tokens - 1, generator=generator)[: count - 1] + 1
    return torch.cat((torch.zeros(1, dtype=torch.long), others))
