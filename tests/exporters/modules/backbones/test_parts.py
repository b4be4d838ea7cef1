"""Parts reach the backbone, and torch finds it once."""

from __future__ import annotations

import copy

import pytest
import torch

from dinodeploy.errors import ExportError
from dinov3_ref.checkpoints import build_model, random_checkpoint
from exporters.modules.backbones.parts import Block, Stage, refuse, run_stage
from tests.support.tiny_models import tiny_config, tiny_convnext


def test_a_part_registers_nothing() -> None:
    backbone = build_model(random_checkpoint(tiny_config(depth=1), 0))
    block = Block(backbone, 0)
    assert not list(block.parameters())
    holder = torch.nn.ModuleList([backbone, block])
    copied = copy.deepcopy(holder)
    assert copied[1].vit is copied[0]


def test_stages_follow_each_other() -> None:
    backbone = build_model(random_checkpoint(tiny_convnext(), 0))
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = backbone.run_stages(x)  # type: ignore[union-attr, operator]
        for index, map_BChw in enumerate(wanted):
            x = Stage(backbone, index)(x)
            assert torch.equal(x, map_BChw)
    assert run_stage(backbone, 0, torch.zeros(1, 3, 32, 32)).shape == (1, 32, 8, 8)  # type: ignore[arg-type]


def test_unsupported_arguments_are_refused() -> None:
    refuse("a mask", None)
    refuse("causal attention", False)
    with pytest.raises(ExportError, match="calls its backbone with a mask"):
        refuse("a mask", torch.zeros(1))
