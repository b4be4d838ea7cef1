"""The copy that is traced shares its decoder with the module, and changes nothing in it."""

from __future__ import annotations

import torch

from exporters.modules.whole import backbones_of, make_traced_copy, stride_of_all
from tests.support.whole_models import TinySegmenter


def test_the_module_is_untouched() -> None:
    model = TinySegmenter().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copied = make_traced_copy(model)
    assert copied.module is not model
    assert copied.module.decoder[0].weight is model.decoder[0].weight
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_have_their_paths() -> None:
    weights = make_traced_copy(TinySegmenter().eval()).weights
    assert weights["backbone.blocks.1.attn.q.weight"]().shape == (128, 128)
    assert "decoder.1.running_mean" in weights
    assert "backbone.blocks.1.attn.qkv.weight" not in weights


def test_backbones_are_found_once() -> None:
    model = TinySegmenter()
    model.alias = model.backbone
    found = backbones_of(model)
    assert list(found) == ["backbone"]
    assert stride_of_all(list(found.values())) == 16
