"""Parity receipts: the judge's word on one engine, one runtime, one device.

`embed` refuses an engine without a passing receipt for where it runs. Making one takes seconds and is
automatic. A receipt names the hashes of the engine and the golden file it was made from, and keeps the
numbers, not a bare yes: they are held against today's thresholds each time.

Receipts stand in BUNDLE/parity.json; when the bundle cannot be written, in the user's cache. That file is
not signed, so where a signature is required, only the user's cache counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.bundle.bundle import GOLDEN_FILE, Bundle, EngineChoice
from dinodeploy.bundle.manifest import RECEIPTS_FILE
from dinodeploy.errors import BundleError
from dinodeploy.files import schema
from dinodeploy.files.atomic import atomic_file
from dinodeploy.files.cache import cache_dir
from dinodeploy.parity.judge import PATCH_METRICS, PIXEL_THRESHOLDS, THRESHOLDS, Measurement, Verdict

FILE_NAME = RECEIPTS_FILE


@dataclass(frozen=True)
class Receipt:
    """One verdict and what it is valid for."""

    engine: str
    engine_sha256: str
    golden_sha256: str
    runtime: str
    device: str
    recipe: str
    passed: bool
    measurements: tuple[Measurement, ...]

    @property
    def outputs(self) -> set[str]:
        """Names of the outputs that were judged."""
        return {m.output for m in self.measurements}

    def holds(self) -> bool:
        """Whether the numbers pass today's thresholds, whatever `passed` claims."""
        table = (*PIXEL_THRESHOLDS, *THRESHOLDS.get(self.recipe, ()))
        limits = {threshold.metric: threshold for threshold in table}
        judged = {m.metric for m in self.measurements}
        if "patch" not in self.outputs:
            judged |= PATCH_METRICS
        return (
            self.passed
            and self.recipe in THRESHOLDS
            and set(limits) <= judged
            and all(m.passed for m in self.measurements)
            and all(
                m.value is not None and limits[m.metric].holds(m.value)
                for m in self.measurements
                if m.metric in limits
            )
        )


@dataclass(frozen=True)
class Receipts:
    """Root of parity.json."""

    format: int
    receipts: tuple[Receipt, ...]


def make_receipt(engine: EngineChoice, runtime: str, device: str, verdict: Verdict) -> Receipt:
    return Receipt(
        engine=engine.file,
        engine_sha256=engine.manifest.engine_sha256(engine.file),
        golden_sha256=engine.manifest.files[GOLDEN_FILE].sha256,
        runtime=runtime,
        device=device,
        recipe=verdict.recipe,
        passed=verdict.passed,
        measurements=verdict.measurements,
    )


def find_receipt(engine: EngineChoice, runtime: str, device: str) -> Receipt | None:
    """A receipt that holds for each output of this engine on this runtime and device, or None."""
    manifest = engine.manifest
    hashes = manifest.engine_sha256(engine.file), manifest.files[GOLDEN_FILE].sha256
    key = (engine.file, runtime, device, *hashes)
    for path in _places(engine.bundle):
        for receipt in _read(path):
            found = (*_valid_for(receipt), receipt.engine_sha256, receipt.golden_sha256)
            same = found == key and receipt.recipe == manifest.graph.recipe
            if same and receipt.outputs.issuperset(engine.outputs) and receipt.holds():
                return receipt
    return None


def save_receipt(bundle: Bundle, receipt: Receipt) -> Path | None:
    """Add a receipt, in place of an older one for the same engine, runtime and device.

    Returns where it is kept: in the bundle, in the user's cache, or None when neither can be written.
    """
    for path in _places(bundle):
        others = tuple(old for old in _read(path) if _valid_for(old) != _valid_for(receipt))
        content = schema.dump(Receipts(1, (*others, receipt)))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(json.dumps(content, indent=1).encode() + b"\n")
        except OSError:
            continue
        return path
    return None


def read_receipts(bundle: Bundle) -> tuple[Receipt, ...]:
    """Every receipt kept for this bundle, wherever it is."""
    return tuple(receipt for path in _places(bundle) for receipt in _read(path))


def _valid_for(receipt: Receipt) -> tuple[str, str, str]:
    return receipt.engine, receipt.runtime, receipt.device


def _places(bundle: Bundle) -> tuple[Path, ...]:
    cached = cache_dir("receipts") / f"{bundle.manifest.digest}.json"
    return (cached,) if bundle.signed is not None else (bundle.root / FILE_NAME, cached)


def _read(path: Path) -> tuple[Receipt, ...]:
    """A file that is missing or unreadable holds no receipt; it only costs a new judgement."""
    try:
        return schema.read(Receipts, path, "receipts").receipts
    except BundleError:
        return ()
