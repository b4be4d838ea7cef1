"""The detector gives what transformers' does, at square and other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinodeploy.parity.detections import match
from dinov3_ref.tasks import LoadedTask
from tests.support.detectors import (
    CLASSES,
    L_SHALLOW,
    S_SHALLOW,
    TINY,
    chosen_positions,
    load_detector,
    make_detector,
    save_detector,
)

LIMIT = 1e-5  # relative error of a raw output; measured 1.2e-6
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "massive activations": {"planted": True},
    "without gates": {
        "use_gateway": False,
        "encoder_has_trailing_conv": True,
        "num_denoising": 0,
        "up": 0.7,
        "reg_scale": 6.0,
    },
    "nearest points": {"decoder_method": "discrete", "normalize_before": True, "eval_size": [64, 64]},
    "gelu gates in the backbone": {"backbone": {"use_gated_mlp": True}},
    "silu gates in the backbone": {"backbone": {"use_gated_mlp": True, "hidden_act": "silu"}},
    "four maps": {
        "d_model": 64,
        "num_feature_levels": 4,
        "decoder_n_points": 3,
        "encoder_layers": 2,
        "encode_proj_layers": [1, 2],
        "batch_norm_eps": 1e-3,
    },
}


def pixels(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_same(theirs: Any, ours: LoadedTask, size: tuple[int, int]) -> None:
    """Queries that score almost alike may swap; they are compared by their places."""
    image = pixels(size)
    with torch.inference_mode():
        wanted, (logits, boxes, positions) = theirs(image), ours.model(image)
    places = chosen_positions(wanted, logits.shape[1])
    for row in range(len(image)):
        mine, other = match(positions[row].numpy(), places[row].numpy())
        assert len(mine) == logits.shape[1]
        for got, want in ((logits, wanted.logits), (boxes, wanted.pred_boxes)):
            assert want.std() > 0.1  # queries differ
            assert (got[row][mine] - want[row][other]).norm() / want[row].norm() < LIMIT


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_transformers(variant: str, tmp_path: Path) -> None:
    theirs = make_detector(TINY, **VARIANTS[variant])
    ours = load_detector(save_detector(theirs, tmp_path))
    for size in ((128, 128), (96, 160), (416, 32)):  # of 52 rows, the first and last propose nothing
        assert_same(theirs, ours, size)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "planted"), [(S_SHALLOW, False), (L_SHALLOW, True)])
def test_equals_transformers_at_released_widths(shape: dict[str, Any], planted: bool, tmp_path: Path) -> None:
    theirs = make_detector(shape, planted=planted)
    ours = load_detector(save_detector(theirs, tmp_path))
    for size in ((320, 320), (192, 288), (416, 128)):
        assert_same(theirs, ours, size)


def test_a_masked_place_has_no_number(tmp_path: Path) -> None:
    """On a map of 52 rows, the first and the last are too near to an edge."""
    theirs = make_detector(TINY)
    ours = load_detector(save_detector(theirs, tmp_path)).model
    with torch.no_grad():  # only the places of zeros have a score
        ours.selection.enc_score_head.weight.zero_()
        ours.selection.enc_output[1].weight.zero_()
    with torch.inference_mode():
        positions = ours(pixels((416, 32)))[2]
    assert (positions == -1).any()
    assert not torch.isin(positions, torch.tensor([0.0, 1.0, 2.0, 3.0])).any()


def test_what_post_processing_needs(tmp_path: Path) -> None:
    model = load_detector(save_detector(make_detector(TINY), tmp_path)).model
    assert model.classes == CLASSES
    assert model.settings == {"threshold": 0.5, "least_side": 48}
    assert model.outputs["logits"] == ("batch", 40, len(CLASSES))
    assert model.least_side == 48
