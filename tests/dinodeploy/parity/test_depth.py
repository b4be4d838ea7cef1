"""Metrics and limits of depth maps, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dinodeploy.bundle.facts import HeadFacts
from dinodeploy.parity.depth import (
    CAPS,
    DEPTH_THRESHOLDS,
    MARGIN,
    METRICS,
    compare_depth,
    has_condition,
    scale_limits,
)


def facts(**condition: dict[str, float]) -> HeadFacts:
    return HeadFacts("depth", "dpt_depth", (), ("depth",), (), "", "", "", {"condition": condition})


def test_metrics() -> None:
    wanted = np.full((1, 1, 10, 10), 30.0, np.float32)
    wanted[..., :1, :1] = 80.0
    got = wanted.copy()
    got[..., :1, :1] = 40.0
    found = compare_depth(got, wanted)
    assert found["depth_median"] == 0
    assert found["depth_error"] == pytest.approx(40 / np.linalg.norm(wanted))
    assert found["depth_variation"] == pytest.approx(40 / np.linalg.norm(wanted - wanted.mean()))
    assert found["depth_variation"] > 0.5, "the one pixel that varies is wrong"
    assert compare_depth(wanted * 1.04, wanted)["depth_median"] == pytest.approx(0.04)


def test_a_flat_map_is_not_divided_by_zero() -> None:
    flat = np.full((1, 1, 4, 4), 30.0, np.float32)
    assert compare_depth(flat * 1.001, flat)["depth_variation"] == pytest.approx(0.1, rel=1e-3)


def test_limits_grow_with_the_condition_up_to_caps() -> None:
    plain = DEPTH_THRESHOLDS["fp32"]
    assert scale_limits(plain, facts(), "fp32") == plain
    good = scale_limits(plain, facts(fp32=dict.fromkeys(METRICS, 1e-9)), "fp32")
    assert good == plain, "never below the limit"
    some = scale_limits(plain, facts(fp32=dict.fromkeys(METRICS, 2e-3)), "fp32")
    assert [one.limit for one in some] == [MARGIN * 2e-3] * 3
    worst = scale_limits(plain, facts(fp32=dict.fromkeys(METRICS, 9.0)), "fp32")
    assert [one.limit for one in worst] == list(CAPS)
    other = scale_limits(plain, facts(fp16=dict.fromkeys(METRICS, 9.0)), "fp32")
    assert other == plain, "that of another recipe"


def test_only_measured_heads_have_it() -> None:
    assert has_condition(facts())
    assert not has_condition(HeadFacts("depth", "linear_depth", (), ("depth",), (), "", "", ""))
