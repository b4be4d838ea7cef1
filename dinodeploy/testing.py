"""For the tests of whoever ships a bundle: one assertion that the engine is the model on this machine.

    from dinodeploy.testing import assert_parity

    def test_the_bundle_is_the_model():
        assert_parity("bundles/vit_large")

Any test runner will do; nothing here imports one.
"""

from __future__ import annotations

from pathlib import Path

from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.judge import Verdict

SHOWN = 8  # failures that a message lists


def assert_parity(bundle: str | Path, *, threads: int | None = None) -> None:
    """Judge `bundle`, or an engine file inside one, afresh. AssertionError lists what failed.

    Raises as `dinodeploy.Embedder.open` where there is nothing to judge: no bundle, a tampered one, a
    runtime that is missing.
    """
    __tracebackhide__ = True  # pytest then shows the caller's line
    engine, receipt, verdict = check_bundle(bundle, threads=threads)
    if not verdict.passed:
        head = f"{engine.path} is not the model ({verdict.recipe}, {receipt.runtime}, {receipt.device})"
        raise AssertionError("\n".join([head, *_lines(verdict)]))


def _lines(verdict: Verdict) -> list[str]:
    failures = verdict.failures
    places = [f"{m.case}/{m.output}" for m in failures[:SHOWN]]
    width = max(map(len, places), default=0)
    lines = [f"  {place:<{width}}  {m.sentence}" for place, m in zip(places, failures, strict=False)]
    more = len(failures) - SHOWN
    total = f"  {len(failures)} of {len(verdict.measurements)} measurements failed"
    return [*lines, *([f"  and {more} more"] if more > 0 else []), total]
