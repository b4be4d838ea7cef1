"""Parameter groups: learning-rate and weight-decay multipliers per parameter (docs/spec.md 4.10).

A group is a dictionary for the optimiser, with `params`, `name`, `is_last_layer`, `lr_multiplier` and
`wd_multiplier`. `step.set_rates` applies the multipliers at every step; with `lr` they are applied here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

Group = dict[str, Any]

EMBEDDINGS = ("pos_embed", "patch_embed", "mask_token", "cls_token", "storage_tokens")
WITHOUT_DECAY = ("norm", "gamma", "fourier_w")  # and biases; tokens do decay (docs/spec.md 0, fact 13)
FUSED_BY = ("is_last_layer", "lr_multiplier", "wd_multiplier")


def get_vit_lr_decay_rate(name: str, lr_decay_rate: float = 1.0, num_layers: int = 12) -> float:
    """Layer-wise decay lr_decay_rate^(num_layers + 1 - layer) of a parameter.

    Embeddings are layer 0, block i is layer i + 1, everything else is the last layer. Modules without blocks
    (heads, ConvNeXt) have num_layers 0, which gives 1 for each parameter.
    """
    layer = num_layers + 1
    if num_layers > 0:
        if any(word in name for word in EMBEDDINGS):
            layer = 0
        elif block := re.search(r"(?:^|\.)blocks\.(\d+)\.", name):
            layer = int(block[1]) + 1
    return lr_decay_rate ** (num_layers + 1 - layer)


def get_params_groups_with_decay(
    model: nn.Module,
    lr_decay_rate: float = 1.0,
    patch_embed_lr_mult: float = 1.0,
    dino_head_wd_multiplier: float = 1.0,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    prefix: str = "",
) -> list[Group]:
    """One group per trainable parameter of `model`; `prefix` (such as `backbone.`) goes before its name.

    With `lr` or `weight_decay` every group also gets that value times its multiplier, for training without a
    schedule.
    """
    num_layers = len(blocks) if isinstance(blocks := getattr(model, "blocks", None), nn.ModuleList) else 0
    groups = []
    for own_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        name = prefix + own_name
        group: Group = {
            "name": name,
            "params": parameter,
            "is_last_layer": "last_layer" in name,
            "lr_multiplier": get_vit_lr_decay_rate(own_name, lr_decay_rate, num_layers),
            "wd_multiplier": dino_head_wd_multiplier if "dino_head" in name else 1.0,
        }
        if "patch_embed" in name:
            group["lr_multiplier"] *= patch_embed_lr_mult
        if name.endswith("bias") or any(word in name for word in WITHOUT_DECAY):
            group["wd_multiplier"] = 0.0
        if lr is not None:
            group["lr"] = lr * group["lr_multiplier"]
        if weight_decay is not None:
            group["weight_decay"] = weight_decay * group["wd_multiplier"]
        groups.append(group)
    return groups


# Parameters keep their names under fully_shard, compile and activation checkpointing: one function for both.
get_params_groups_with_decay_fsdp = get_params_groups_with_decay


def fuse_params_groups(groups: Iterable[Group], keys: tuple[str, ...] = FUSED_BY) -> list[Group]:
    """Merge groups that agree in `keys`, so that the optimiser steps them together. Keeps the order."""
    fused: dict[tuple[Any, ...], Group] = {}
    for group in groups:
        signature = tuple(group[key] for key in keys)
        if signature not in fused:
            shared = {key: value for key, value in group.items() if key != "name"}
            fused[signature] = {**shared, "params": []}
        fused[signature]["params"].append(group["params"])
    return list(fused.values())
