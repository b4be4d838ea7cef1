"""For the tests of projects that ship a bundle: assert that the engine equals the model on this machine.

    from dinodeploy.testing import assert_parity

    def test_the_bundle_is_the_model():
        assert_parity("bundles/vit_large")

It works with any test runner.
"""

from __future__ import annotations

from pathlib import Path

from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.judge import Verdict

SHOWN = 8  # failures listed in a message


def assert_parity(bundle: str | Path, *, threads: int | None = None) -> None:
    """Run the judge on `bundle`, or on an engine file inside one. AssertionError lists what failed.

    Raises as `dinodeploy.Embedder.open` if it cannot be judged: no bundle, a changed file, a missing runtime.
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
