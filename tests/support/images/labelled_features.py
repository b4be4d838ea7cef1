"""scikit-learn's digits as labelled features: their pixels."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from dinov3_ref.eval.labelled import Labelled

NAMES = tuple(map(str, range(10)))


def digits() -> tuple[Labelled, Labelled]:
    """(train, test): 1200 and 597 rows [N,64]."""
    x, y = load_digits(return_X_y=True)
    features, labels = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    return (
        Labelled(features[:1200], labels[:1200], NAMES, "train"),
        Labelled(features[1200:], labels[1200:], NAMES, "test"),
    )
