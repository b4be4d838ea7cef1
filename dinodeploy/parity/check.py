"""Judge a bundle on this machine: what `dinodeploy check` and `dinodeploy.testing` call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dinodeploy.bundle.bundle import Bundle, EngineChoice
from dinodeploy.embedder import Embedder
from dinodeploy.parity.measurement import Verdict
from dinodeploy.parity.receipts import Receipt
from dinodeploy.text.encoder import TextEncoder


def check_bundle(
    engine: str | Path, *, text: bool = True, log: Callable[[str], None] = lambda _: None, **options: Any
) -> tuple[EngineChoice, Receipt, Verdict]:
    """Verify every file of a bundle and judge its engine, whatever receipts it has.

    Of a bundle on the hub, the files are verified that were fetched to run it. With `text`, the text graph
    of a bundle that has one is judged too: the verdict is on both, the receipt of
    the image engine. `log` gets a line on what runs where. Other options and errors as of `Embedder.open`; a
    failed verdict is returned.
    """
    with Embedder.open(engine, allow_unverified=True, **options) as embedder:
        embedder.bundle.verify(embedder.bundle.present())
        verdict = embedder.check()
        log(embedder.choice)
        assert embedder.receipt is not None
        if text and embedder.manifest.text is not None:
            found = _check_text(embedder.bundle, options, log)
            verdict = replace(verdict, measurements=(*verdict.measurements, *found.measurements))
        return embedder.engine, embedder.receipt, verdict


def _check_text(bundle: Bundle, options: Mapping[str, Any], log: Callable[[str], None]) -> Verdict:
    given = {name: options[name] for name in ("device", "threads") if name in options}
    encoder = TextEncoder.open(bundle, allow_unverified=True, **given)
    try:
        log(f"{encoder.choice.file} on {encoder.backend.device}, {encoder.backend.runtime}")
        return encoder.check()
    finally:
        encoder.close()
