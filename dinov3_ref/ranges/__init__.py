"""Measure how large the values inside a model get, and predict which precisions can hold them.

ranges = measure_ranges(model, batches)
for prediction in predict(ranges):
    print(prediction.recipe, prediction.verdict)
"""

from __future__ import annotations

from dinov3_ref.ranges.measure import measure_ranges
from dinov3_ref.ranges.predict import PRECISIONS, Precision, Prediction, predict, short
from dinov3_ref.ranges.ranges import (
    FP16_LARGEST,
    TOKEN_KINDS,
    BlockRanges,
    Gains,
    Ranges,
    ResidualRange,
    Site,
    Spread,
)

__all__ = [
    "measure_ranges",
    "predict",
    "short",
    "PRECISIONS",
    "Precision",
    "Prediction",
    "Ranges",
    "BlockRanges",
    "ResidualRange",
    "Site",
    "Spread",
    "Gains",
    "FP16_LARGEST",
    "TOKEN_KINDS",
]
