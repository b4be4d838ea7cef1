"""The table of limits: every recipe has a row, and every limit leaves its measured error a margin."""

from __future__ import annotations

from dinodeploy.parity.thresholds import HEAD_THRESHOLDS, PIXEL_THRESHOLDS, THRESHOLDS


def test_every_recipe_has_limits_for_backbone_and_head() -> None:
    assert (
        THRESHOLDS.keys()
        == HEAD_THRESHOLDS.keys()
        == {
            "fp32",
            "fp16",
            "bf16",
            "bf16-residual",
            "int8",
            "fp8",
        }
    )


def test_what_was_measured_passes() -> None:
    rows = [PIXEL_THRESHOLDS, *THRESHOLDS.values(), *HEAD_THRESHOLDS.values()]
    assert all(threshold.holds(threshold.measured) for row in rows for threshold in row)
