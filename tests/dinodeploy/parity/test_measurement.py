"""Verdicts: what passes, what is worst, and what a message says."""

from __future__ import annotations

from dinodeploy.parity.measurement import Measurement, Verdict


def measured(metric: str, value: float | None, *, passed: bool = True, note: str = "") -> Measurement:
    return Measurement("a", "cls", metric, value, 0.5, passed, note)


def test_a_verdict_without_measurements_has_not_passed() -> None:
    assert not Verdict("fp32", ()).passed
    assert Verdict("fp32", (measured("cosine", 1.0),)).passed
    failed = measured("cosine", 0.1, passed=False)
    verdict = Verdict("fp32", (measured("cosine", 1.0), failed))
    assert not verdict.passed
    assert verdict.failures == (failed,)


def test_the_worst_cosine_is_the_smallest_and_the_worst_error_the_largest() -> None:
    verdict = Verdict(
        "fp32",
        tuple(
            measured(metric, value)
            for metric in ("cosine", "box_iou", "nearest_neighbour", "class_agreement", "max_abs")
            for value in (0.2, None, 0.7)
        ),
    )
    assert verdict.worst("max_abs") == 0.7
    for metric in ("cosine", "box_iou", "nearest_neighbour", "class_agreement"):
        assert verdict.worst(metric) == 0.2
    assert verdict.worst("never measured") is None


def test_a_sentence_has_the_limit_or_the_reason() -> None:
    assert measured("max_abs", 0.25).sentence == "max_abs is 0.25, limit 0.5"
    assert measured("max_abs", None).sentence == "max_abs: not finite"
    assert measured("shape", None, note="got 2, wanted 3").sentence == "shape: got 2, wanted 3"
    assert Measurement("a", "cls", "max_abs", 0.25, None, True).sentence == "max_abs is 0.25"
