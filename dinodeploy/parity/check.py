"""Judge a bundle on this machine: what `dinodeploy check` and `dinodeploy.testing` call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dinodeploy.bundle.bundle import EngineChoice
from dinodeploy.embedder import Embedder
from dinodeploy.parity.judge import Verdict
from dinodeploy.parity.receipts import Receipt


def check_bundle(
    engine: str | Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    weight_budget: int | None = None,
    require_signature: Path | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[EngineChoice, Receipt, Verdict]:
    """Verify every file of a bundle and judge its engine, whatever receipts it has.

    `log` gets a line on what runs where. Raises as `Embedder.open`, but returns a failed verdict.
    """
    with Embedder.open(
        engine,
        device=device,
        threads=threads,
        weight_budget=weight_budget,
        require_signature=require_signature,
        allow_unverified=True,
    ) as embedder:
        embedder.bundle.verify()
        verdict = embedder.check()
        log(embedder.choice)
        assert embedder.receipt is not None
        return embedder.engine, embedder.receipt, verdict
