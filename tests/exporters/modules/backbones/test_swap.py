"""A copy with our backbones computes what the module computes, whatever library the backbone is from."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

from dinodeploy.errors import ExportError
from dinov3_ref.models import ConvNeXt, DinoVisionTransformer
from exporters.modules.backbones.swap import swap
from exporters.modules.whole import backbones_of
from tests.support.whole_models import USES, AroundTimm, AroundTransformers, TinySegmenter, in_use

LIMIT = 2e-6  # measured 5e-7


def relative(got: Any, wanted: Any) -> float:
    pairs = zip(got, wanted, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("name", USES)
def test_every_use_gives_the_same_tensors(name: str) -> None:
    module = in_use(name)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = module(x)
        copied, found = swap(module)
        got = copied(x)
        again = module(x)
    assert len(found) == len(backbones_of(copied)) == 1
    assert relative(got, wanted) < LIMIT
    assert all(torch.equal(a, b) for a, b in zip(wanted, again, strict=True)), "the module was changed"
    assert backbones_of(module) == {}


def test_the_official_class_becomes_ours() -> None:
    inner = TinySegmenter().eval().backbone
    assert isinstance(inner, DinoVisionTransformer)
    official = type("DinoVisionTransformer", (nn.Module,), {"__module__": "dinov3.models.vision_transformer"})
    model = official()
    for name in ("patch_embed", "blocks", "norm", "rope_embed", "num_heads", "local_cls_norm"):
        setattr(model, name, getattr(inner, name))
    for name in ("cls_token", "storage_tokens", "mask_token"):
        model.register_parameter(name, getattr(inner, name))
    outer = nn.Module()
    outer.encoder = model
    copied, (found,) = swap(outer)
    assert (found.path, found.library) == ("encoder", "official")
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert relative([copied.encoder(x)], [inner(x)]) < LIMIT  # type: ignore[operator]


def test_two_backbones_are_both_ours() -> None:
    module = nn.ModuleDict({"a": AroundTransformers(), "b": AroundTimm()}).eval()
    copied, found = swap(module)
    assert [(one.path, one.library) for one in found] == [
        ("a.encoder", "transformers"),
        ("b.encoder", "timm"),
    ]
    assert list(backbones_of(copied)) == ["a.encoder.dinov3", "b.encoder.dinov3"]


def test_without_a_backbone_it_is_refused() -> None:
    with pytest.raises(ExportError, match="Sequential has no DINOv3 backbone inside"):
        swap(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_what_cannot_be_copied_is_refused() -> None:
    module = TinySegmenter()
    module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ExportError, match="cannot be copied"):
        swap(module)


def test_ours_stays_as_it_is() -> None:
    copied, (found,) = swap(TinySegmenter().eval())
    assert found.library == "dinodeploy"
    assert isinstance(backbones_of(copied)["backbone"], (DinoVisionTransformer, ConvNeXt))
