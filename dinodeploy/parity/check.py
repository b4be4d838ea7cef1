"""Judge a bundle on this machine: what `dinodeploy check` and `dinodeploy.testing` call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinodeploy.bundle.bundle import EngineChoice
from dinodeploy.embedder import Embedder
from dinodeploy.parity.judge import Verdict
from dinodeploy.parity.receipts import Receipt


def check_bundle(
    engine: str | Path, *, log: Callable[[str], None] = lambda _: None, **options: Any
) -> tuple[EngineChoice, Receipt, Verdict]:
    """Verify every file of a bundle and judge its engine, whatever receipts it has.

    `log` gets a line on what runs where. Other options and errors as of `Embedder.open`; a failed verdict is
    returned.
    """
    with Embedder.open(engine, allow_unverified=True, **options) as embedder:
        embedder.bundle.verify()
        verdict = embedder.check()
        log(embedder.choice)
        assert embedder.receipt is not None
        return embedder.engine, embedder.receipt, verdict
