"""The input of a linear probe (docs/spec.md 5.2)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dinov3_ref.torchvision_shim  # noqa: F401  (before transformers)
from dinov3_ref.checkpoints import load_checkpoint, random_checkpoint
from dinov3_ref.checkpoints.load import build_model
from dinov3_ref.eval.features import FrozenModel, probe_input, probe_names
from tests.support.images.photographs import pixels
from tests.support.tiny_models import tiny_config


def test_the_input_is_cls_of_the_last_blocks_and_the_mean_patch() -> None:
    checkpoint = random_checkpoint(tiny_config())
    frozen = FrozenModel(build_model(checkpoint), torch.device("cpu"), (), ())
    x = pixels(["chelsea", "rocket"], 48, 64)
    features = frozen.model.forward_features(x)
    names = probe_names(frozen, 1)
    one = probe_input(frozen.outputs(x, names), names)
    expected = torch.cat([features["x_norm_clstoken"], features["x_norm_patchtokens"].mean(1)], -1)
    torch.testing.assert_close(one, expected.detach())
    names = probe_names(frozen, 2)
    two = probe_input(frozen.outputs(x, names), names)
    assert two.shape == (2, 3 * 128)
    assert torch.equal(two[:, 128:], one)  # so the narrower input is the end of the wider one


def test_features_are_those_of_transformers(tmp_path: Path) -> None:
    """CLS and patches of a folder that transformers wrote, with lively weights and its exact RoPE periods."""
    transformers = pytest.importorskip("transformers")
    config = transformers.DINOv3ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        num_register_tokens=4, patch_size=16, layerscale_value=0.7,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DINOv3ViTModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    x = pixels(["chelsea", "rocket"], 48, 64)
    with torch.no_grad():
        tokens = model(x).last_hidden_state
    ours = build_model(load_checkpoint(tmp_path, periods="fp32"))
    found = FrozenModel(ours, torch.device("cpu"), (), ()).outputs(x, ["cls", "patch"])
    torch.testing.assert_close(found["cls"], tokens[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["patch"].flatten(1, 2), tokens[:, 5:], atol=1e-5, rtol=1e-4)
