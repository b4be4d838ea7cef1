"""How the judge measures a head's outputs: by hand, and blind to nothing that matters."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.parity.judge import class_agreement, measure_head
from dinodeploy.parity.thresholds import HEAD_THRESHOLDS, THRESHOLDS


def test_error_by_hand() -> None:
    wanted = np.array([[[[3.0]], [[4.0]]]], np.float32)
    assert measure_head(2 * wanted, wanted, False) == {"head_error": pytest.approx(1.0), "max_abs": 4.0}


def test_what_all_classes_share_decides_nothing() -> None:
    wanted = np.array([[100.0, 101.0, 99.0]], np.float32)
    assert measure_head(wanted + 5, wanted, True)["head_error"] == pytest.approx(0, abs=1e-6)
    swapped = measure_head(wanted[:, ::-1], wanted, True)["head_error"]
    assert swapped > 0.9, "though the difference is small beside the hundred that they share"


def test_agreement_lets_ties_pass_and_nothing_else() -> None:
    wanted = np.array([[1.0, 0.0, -1.0], [1.0, 0.99, -2.0], [0.0, 2.0, 0.0]], np.float32)
    got = wanted.copy()
    assert class_agreement(got, wanted) == 1.0
    got[1] = (0.9, 1.0, -2.0)
    assert class_agreement(got, wanted) == 1.0, "the reference itself can hardly tell"
    got[0] = (-1.0, 0.0, 1.0)
    assert class_agreement(got, wanted) == pytest.approx(2 / 3)


def test_limits_have_margin_but_not_much() -> None:
    assert HEAD_THRESHOLDS.keys() == THRESHOLDS.keys()
    for error, agreement in HEAD_THRESHOLDS.values():
        assert error.holds(error.measured)
        assert error.limit <= 10 * error.measured
        assert error.limit < 1, "an output of zeros only has an error of one"
        assert agreement.holds(agreement.measured)
        assert not agreement.holds(0.5)
