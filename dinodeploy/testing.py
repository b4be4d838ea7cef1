"""For the tests of projects that ship a bundle: assert that the engine equals the model on this machine.

    from dinodeploy.testing import assert_parity

    def test_the_bundle_is_the_model():
        assert_parity("bundles/vit_large")

It works with any test runner.
"""

from __future__ import annotations

from pathlib import Path

from dinodeploy.parity.check import check_bundle

SHOWN = 8  # failures listed in a message


def assert_parity(
    bundle: str | Path, *, threads: int | None = None, require_signature: Path | None = None
) -> None:
    """Run the judge on `bundle`, or on an engine file inside one. AssertionError lists what failed.

    Raises as `dinodeploy.Embedder.open` if it cannot be judged: no bundle, a changed file, a missing runtime.
    """
    __tracebackhide__ = True  # pytest then shows the caller's line
    engine, receipt, verdict = check_bundle(bundle, threads=threads, require_signature=require_signature)
    if not verdict.passed:
        failures, judged = verdict.failures, len(verdict.measurements)
        lines = [f"{engine.named} is not the model ({verdict.recipe}, {receipt.runtime}, {receipt.device})"]
        width = max((len(f"{m.case}/{m.output}") for m in failures[:SHOWN]), default=0)
        lines += [f"  {f'{m.case}/{m.output}':<{width}}  {m.sentence}" for m in failures[:SHOWN]]
        if len(failures) > SHOWN:
            lines.append(f"  and {len(failures) - SHOWN} more")
        raise AssertionError("\n".join([*lines, f"  {len(failures)} of {judged} measurements failed"]))
