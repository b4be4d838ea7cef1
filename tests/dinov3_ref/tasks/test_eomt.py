"""Our EoMT against transformers' `EomtDinov3ForUniversalSegmentation`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dinov3_ref.errors import ConfigError
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.tasks.eomt import Eomt, EomtConfig
from tests.support.eomt_models import load_eomt_of, run_at, transformers_eomt

SIZES = [(128, 128), (96, 160), (208, 64)]  # the training size and two off-square ones
CONFIGURATIONS: list[tuple[tuple[float, ...], dict[str, Any]]] = [
    ((0.0, 0.0), {}),
    ((1.0, 1.0), {}),
    ((1.0, 0.0), {"num_upscale_blocks": 1}),  # transformers keeps the mask of a block for the next one
    ((0.0, 1.0), {"use_gated_mlp": True, "hidden_act": "silu"}),
    ((1.0, 1.0), {"use_gated_mlp": True, "num_upscale_blocks": 3}),
    ((0.0, 1.0), {"hidden_act": "silu", "num_upscale_blocks": 0, "key_bias": True}),
    ((1.0,) * 4, {"num_blocks": 4, "num_register_tokens": 1}),
]


@pytest.mark.parametrize(("masked", "changes"), CONFIGURATIONS)
def test_outputs_equal_those_of_transformers(masked: tuple[float, ...], changes: dict[str, Any]) -> None:
    """Measured: 7e-7 and less."""
    theirs = transformers_eomt(masked, **changes)
    ours = load_eomt_of(theirs)
    assert ours.config.masked == tuple(bool(value) for value in masked)
    for height, width in SIZES:
        pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
        for got, wanted in zip(ours(pixels), run_at(theirs, pixels), strict=True):
            assert got.shape == wanted.shape
            assert torch.dist(got, wanted) / wanted.norm() < 1e-5


def test_masked_attention_and_the_kept_mask_matter() -> None:
    """With these weights, wrong blocks would be noticed."""
    pixels = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    states = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    outputs = [load_eomt_of(transformers_eomt(state))(pixels)[1] for state in states]
    for index, one in enumerate(outputs):
        for other in outputs[:index]:
            assert torch.dist(one, other) / one.norm() > 1e-2


def test_outputs_and_facts_of_a_model() -> None:
    model = load_eomt_of(transformers_eomt((0.0, 0.0)))
    model.check()
    assert (model.kind, model.task, model.fixed_size) == ("eomt", "panoptic", False)
    assert model.outputs == {
        "class_logits": ("batch", 12, 6),
        "mask_logits": ("batch", 12, "mask_rows", "mask_columns"),
    }
    assert model.classes == ("person", "bicycle", "car", "sky", "road")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masked": ()}, "num_blocks is 0; wanted 1 to 2"),
        ({"masked": (False,) * 3}, "num_blocks is 3; wanted 1 to 2"),
        ({"activation": "relu"}, "activation 'relu' is unknown; wanted one of gelu, silu"),
        ({"num_queries": 0}, "num_queries is 0; wanted at least 1"),
        ({"num_classes": 0}, "num_classes is 0; wanted at least 1"),
        ({"num_upscale_blocks": -1}, "num_upscale_blocks is -1; wanted at least 0"),
    ],
)
def test_impossible_configurations(changes: dict[str, Any], message: str) -> None:
    backbone = ViTConfig(32, 2, 2)
    with pytest.raises(ConfigError, match=message):
        EomtConfig(**{"backbone": backbone, "num_classes": 3, "masked": (False,), **changes})


def test_class_names_must_match_the_classes() -> None:
    config = EomtConfig(ViTConfig(32, 2, 2), num_classes=3, masked=(False,))
    with pytest.raises(ConfigError, match="2 class names for 3 classes"):
        Eomt(config, classes=("a", "b"))
