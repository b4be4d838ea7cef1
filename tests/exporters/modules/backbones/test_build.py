"""Tensors that are not a backbone's are refused with the name of the module."""

from __future__ import annotations

import pytest
import torch

from dinodeploy.errors import ExportError
from exporters.modules.backbones.build import build_backbone
from tests.support.whole_models import transformers_vit


def test_a_missing_tensor_is_named() -> None:
    tensors = dict(transformers_vit().state_dict())
    del tensors["norm.weight"]
    with pytest.raises(ExportError, match=r"encoder \(Net\) looks like a DINOv3 .*norm\.weight"):
        build_backbone(tensors, "encoder (Net)", hints={"num_heads": 4})


def test_periods_are_taken_as_they_are() -> None:
    periods = torch.tensor([1.0, 2.0, 3.0, 4.0])
    made = build_backbone(transformers_vit().state_dict(), "encoder", periods=periods, hints={"num_heads": 4})
    assert torch.equal(made.rope_embed.periods, periods)  # type: ignore[union-attr]
