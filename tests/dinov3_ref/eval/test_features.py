"""The input of a linear probe (docs/spec.md 5.2)."""

from __future__ import annotations

import torch

from dinov3_ref.checkpoints import random_checkpoint
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
