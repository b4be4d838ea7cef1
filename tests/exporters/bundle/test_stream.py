"""The streamed reference: the same numbers and weights, with one block's weights in memory at a time."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from dinov3_ref.checkpoints import Checkpoint, build_model, random_checkpoint
from exporters.bundle.stream import filled, hollow_model
from exporters.precision.calibrate import watch_linears
from exporters.trace.fold import make_meta_copy
from exporters.trace.trace import TokenOutputs
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_config


def in_bf16(kind: str) -> Checkpoint:
    """As large files are: everything but RoPE's periods in 16 bits."""
    checkpoint = random_checkpoint(tiny_config(kind))
    state = {k: v if k.endswith("periods") else v.bfloat16() for k, v in checkpoint.state.items()}
    return replace(checkpoint, state=state)


@pytest.mark.parametrize("kind", ["mlp", "swiglu", "7b"])
def test_the_same_numbers_and_ranges(kind: str) -> None:
    checkpoint = in_bf16(kind)
    whole, hollow = build_model(checkpoint), hollow_model(checkpoint)
    x = pixels(["china", "coffee"], 64, 96)
    with torch.inference_mode():
        with watch_linears(whole) as wanted_ranges:
            wanted = TokenOutputs(whole, (1,))(x)
        with filled(hollow, checkpoint.state), watch_linears(hollow) as ranges:
            got = TokenOutputs(hollow, (1,))(x)
    assert ranges == wanted_ranges
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_one_block_at_a_time() -> None:
    checkpoint = in_bf16("mlp")
    model = hollow_model(checkpoint)
    seen: list[list[int]] = []

    def look(*_: Any) -> None:
        seen.append([index for index, block in enumerate(model.blocks) if not is_hollow(block)])

    handles = [block.mlp.register_forward_hook(look) for block in model.blocks]  # type: ignore[union-attr]
    with filled(model, checkpoint.state), torch.inference_mode():
        for _ in range(2):
            model(pixels(["china"], 32, 48))
    assert seen == [[0], [1], [2]] * 2
    assert all(is_hollow(block) for block in model.blocks)
    for handle in handles:
        handle.remove()
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.blocks)
    copy.deepcopy(model)


def is_hollow(module: torch.nn.Module) -> bool:
    return all(tensor.is_meta for tensor in module.state_dict().values())


@pytest.mark.parametrize("kind", ["mlp", "7b"])
def test_the_twin_has_the_same_weights(kind: str) -> None:
    checkpoint = in_bf16(kind)
    _, wanted = make_meta_copy(build_model(checkpoint))
    _, got = make_meta_copy(hollow_model(checkpoint), state=checkpoint.state)
    assert got.keys() == wanted.keys()
    for name, make in got.items():
        one, other = make(), wanted[name]()
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_weight_that_is_missing_is_our_bug_and_shows() -> None:
    checkpoint = in_bf16("mlp")
    state = {k: v for k, v in checkpoint.state.items() if k != "blocks.1.mlp.fc1.weight"}
    with filled(hollow_model(checkpoint), checkpoint.state):
        pass
    model = hollow_model(checkpoint)
    with filled(model, state), torch.inference_mode(), pytest.raises(KeyError, match=r"blocks\.1\.mlp\.fc1"):
        model(pixels(["china"], 32, 48))
