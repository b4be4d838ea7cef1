"""The fp32 reference of a checkpoint with one block's weights in memory at a time.

A 7B in fp32 is 27 GB. Its blocks stay on the meta device; each gets its weights, from the mapped file and
widened to fp32, when it is about to run, and loses them when it has. What runs is the model itself, hooks
included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import Checkpoint
from dinov3_ref.models import Backbone, DinoVisionTransformer

BLOCKS = "blocks."


def hollow_model(checkpoint: Checkpoint) -> DinoVisionTransformer:
    """The model in eval mode, its blocks without weights: for `filled`, and to make a meta copy of."""
    with torch.device("meta"):
        model = DinoVisionTransformer(**checkpoint.config.kwargs())
    outside = {
        name: checkpoint.state[name].float() for name in checkpoint.state if not name.startswith(BLOCKS)
    }
    # the plain one: a model's own warns of what is missing, and here that is on purpose
    nn.Module.load_state_dict(model, outside, strict=False, assign=True)
    return model.eval().requires_grad_(False)


@contextmanager
def filled(model: Backbone, state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """While open, a hollow model runs: every block has its weights of `state` while it computes.

    Without a `state` the model has its own.
    """
    if state is None:
        yield
        return
    assert isinstance(model, DinoVisionTransformer), "others are never hollow"
    with ExitStack() as hooks:
        for index, block in enumerate(model.blocks):
            fill = partial(_fill, state, f"{BLOCKS}{index}.")
            hooks.enter_context(block.register_forward_pre_hook(fill))
            hooks.enter_context(block.register_forward_hook(_empty))
        yield


def _fill(state: Mapping[str, Tensor], prefix: str, block: nn.Module, inputs: Any) -> None:
    weights = {name: state[f"{prefix}{name}"].float() for name in block.state_dict()}
    block.load_state_dict(weights, strict=True, assign=True)


def _empty(block: nn.Module, inputs: Any, output: Any) -> None:
    block.to_empty(device="meta")
