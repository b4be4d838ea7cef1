"""Labelled features that do not fit are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dinov3_ref.errors import DataError
from dinov3_ref.eval.labelled import Labelled


def labelled(
    features: Any, labels: Any, names: tuple[str, ...] = ("a", "b"), source: str = "train"
) -> Labelled:
    return Labelled(torch.as_tensor(features, dtype=torch.float32), torch.as_tensor(labels), names, source)


def test_bad_features_are_refused() -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        labelled([[math.nan, 0]], [0])
    with pytest.raises(DataError, match=r"features \[1, 2\] and labels \[2\]"):
        labelled([[1.0, 0]], [0, 1])
