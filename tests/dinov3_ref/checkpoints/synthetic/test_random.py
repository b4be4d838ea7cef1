"""Random checkpoints: the same everywhere, complete, and lively enough that a wrong model shows."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dinov3_ref.checkpoints import build_model, expected_shapes, random_checkpoint
from dinov3_ref.models.released import ARCHITECTURES
from tests.support.checkpoint_files import TINY_VITS
from tests.support.images.photographs import pixels


def photographs() -> torch.Tensor:
    return pixels(("astronaut", "coffee", "chelsea"), 96, 160)


@pytest.mark.parametrize("twin", TINY_VITS)
def test_state_is_complete(twin: str) -> None:
    checkpoint = random_checkpoint(TINY_VITS[twin])
    assert {key: tuple(t.shape) for key, t in checkpoint.state.items()} == expected_shapes(TINY_VITS[twin])
    assert {tensor.dtype for tensor in checkpoint.state.values()} == {torch.float32}
    assert (checkpoint.layout, checkpoint.arch, checkpoint.dataset) == ("random", "custom", None)


def test_values_are_pinned() -> None:
    """Identical on every machine, forever: measured values in other tests depend on them."""
    state = random_checkpoint(TINY_VITS["swiglu"]).state
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + state[key].numpy().tobytes())
    assert digest.hexdigest() == "7485e0e006367874b3b169eaba71921ef2e1366d91e641829c6d3675a8e72327"


def test_seed_and_key_decide_a_tensor_and_nothing_else_does() -> None:
    one, other = random_checkpoint(TINY_VITS["mlp"]), random_checkpoint(TINY_VITS["mlp"], seed=1)
    deeper = random_checkpoint(replace(TINY_VITS["mlp"], depth=3))
    assert torch.equal(one.state["blocks.1.mlp.fc1.weight"], deeper.state["blocks.1.mlp.fc1.weight"])
    assert not torch.equal(one.state["blocks.1.mlp.fc1.weight"], other.state["blocks.1.mlp.fc1.weight"])
    assert not torch.equal(one.state["blocks.0.ls1.gamma"], one.state["blocks.1.ls1.gamma"])
    assert len({one.sha256, other.sha256, deeper.sha256}) == 3


def test_every_name_of_a_model_is_one() -> None:
    assert random_checkpoint("dinov3_vits16").arch == random_checkpoint("vit_small").arch == "vit_small"


def test_key_bias_is_set_and_masked() -> None:
    state = random_checkpoint(TINY_VITS["mlp"]).state
    q, k, v = state["blocks.0.attn.qkv.bias_mask"].chunk(3)
    assert bool(q.all())
    assert bool(v.all())
    assert not k.any()
    assert bool(state["blocks.0.attn.qkv.bias"].chunk(3)[1].any())


@pytest.mark.parametrize("config", [replace(ARCHITECTURES["vit_small"], depth=40), TINY_VITS["7b"]])
def test_features_are_finite_and_tell_images_apart(config) -> None:
    with torch.no_grad():
        features = build_model(random_checkpoint(config)).forward_features(photographs())
    assert all(
        bool(torch.isfinite(features[name]).all()) for name in ("x_norm_clstoken", "x_norm_patchtokens")
    )
    cls = F.normalize(features["x_norm_clstoken"], dim=-1)
    assert float((cls @ cls.T).fill_diagonal_(0).max()) < 0.95
    patches = F.normalize(features["x_norm_patchtokens"], dim=-1)
    assert float((patches @ patches.mT).mean()) < 0.95


def test_attention_is_neither_uniform_nor_one_hot() -> None:
    model = build_model(random_checkpoint(replace(ARCHITECTURES["vit_small"], depth=6)))
    inputs = []
    for block in model.blocks:
        block.attn.qkv.register_forward_hook(lambda module, args, output: inputs.append(output))
    with torch.no_grad():
        model.forward_features(photographs())
    for qkv in inputs:  # without RoPE, which keeps every norm: enough to see how sharp attention is
        B, N, _ = qkv.shape
        q, k, _ = qkv.reshape(B, N, 3, 6, 64).permute(2, 0, 3, 1, 4)
        largest = (q @ k.mT / 8.0).softmax(dim=-1).amax(dim=-1).mean()
        assert 3 / N < float(largest) < 0.5


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_leaving_out_any_branch_of_any_block_shows(part: str) -> None:
    """What `init_weights` cannot do: there, a lost block moves the features by about 1e-5."""
    config = replace(ARCHITECTURES["vit_small"], depth=12)
    pixels = photographs()
    with torch.no_grad():
        wanted = build_model(random_checkpoint(config)).forward_features(pixels)["x_norm_patchtokens"]
        for index in (0, 5, 11):
            model = build_model(random_checkpoint(config))
            gamma = model.blocks[index].ls1.gamma if part == "attn" else model.blocks[index].ls2.gamma
            gamma.zero_()
            got = model.forward_features(pixels)["x_norm_patchtokens"]
            assert float((got - wanted).norm() / wanted.norm()) > 0.05, index
