"""Choosing the penalty of a linear head."""

from __future__ import annotations

import numpy as np

from dinodeploy.heads.fit import Rows, fit_head, one_hot
from dinodeploy.heads.scores import confusion


def test_penalty_is_chosen_on_validation_rows_and_balance_helps_the_rare_class() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < 0.04).astype(int)
    x = (rng.normal(size=(2000, 5)) + 1.2 * y[:, None]).astype(np.float32)
    parts = [
        Rows(x[s], one_hot(y[s], 2), np.ones(len(x[s]), np.float32)) for s in (slice(1000), slice(1000, 1500))
    ]
    recalls = {}
    for balance in ("balanced", "none"):
        fitted = fit_head(*parts, balance)  # type: ignore[arg-type]
        counts = confusion(y[1500:], fitted.linear.logits(x[1500:]).argmax(1), 2)
        recalls[balance] = counts[1, 1] / counts[1].sum()
        assert fitted.l2 in [l2 for l2, _ in fitted.tried]
        assert max(score for _, score in fitted.tried) == dict(fitted.tried)[fitted.l2]
    assert recalls["balanced"] > recalls["none"] + 0.2
