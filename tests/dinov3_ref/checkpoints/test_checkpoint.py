"""Tensors that are joined when they are asked for: a mapping like any other, which keeps nothing."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch

from dinov3_ref.checkpoints import build_model, load_checkpoint, random_checkpoint, save_checkpoint
from dinov3_ref.checkpoints.checkpoint import LazyTensors
from tests.support.tiny_models import tiny_config


def test_a_mapping_in_the_order_given() -> None:
    a, made = torch.ones(2), []

    def make() -> torch.Tensor:
        made.append(1)
        return torch.zeros(3)

    lazy = LazyTensors({"b": make, "a": a})
    assert (list(lazy), len(lazy), "b" in lazy, "c" in lazy, lazy.get("c")) == (
        ["b", "a"],
        2,
        True,
        False,
        None,
    )
    assert not made, "none of this needs the tensor"
    assert lazy["a"] is a
    assert lazy["b"].shape == (3,)
    with pytest.raises(KeyError):
        lazy["c"]


def test_a_fused_qkv_is_joined_each_time_and_let_go(tmp_path: Path) -> None:
    """The hub's files store q, k and v apart."""
    checkpoint = random_checkpoint(tiny_config("swiglu"))
    save_checkpoint(checkpoint, "hf", tmp_path / "hf")
    state = load_checkpoint(tmp_path / "hf").state
    key = "blocks.1.attn.qkv.weight"
    first = state[key]
    assert torch.equal(first, checkpoint.state[key])
    kept = weakref.ref(first)
    del first
    gc.collect()
    assert kept() is None
    assert state["blocks.1.mlp.w1.weight"] is state["blocks.1.mlp.w1.weight"], "others are the file's own"
    assert list(state) == list(checkpoint.state)


def test_a_model_of_it_has_weights_of_its_own(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config("mlp"))
    save_checkpoint(checkpoint, "hf", tmp_path / "hf")
    found = build_model(load_checkpoint(tmp_path / "hf")).state_dict()
    wanted = build_model(checkpoint).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items() if "bias" not in name)
