"""Parity receipts: the judge's word on one engine, one runtime, one device.

`embed` refuses an engine without a passing receipt for where it runs. Making one takes seconds and is
automatic. A receipt is for one state of the bundle: `judged_sha256` covers every byte that the engine loads,
the golden file, and the manifest's facts. It keeps the numbers, not a bare yes: they are held against today's
thresholds each time. A failed judgement voids the receipts of every engine that shares a file with the engine
that failed, on every runtime; each is then judged again when it is used.

Receipts stand in BUNDLE/parity.json; when the bundle cannot be written, in the user's cache. That file is
not signed, so where a signature is required, only the user's cache counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dinodeploy.bundle.bundle import Bundle, EngineChoice
from dinodeploy.bundle.manifest import FILE_NAME as MANIFEST_FILE
from dinodeploy.bundle.manifest import RECEIPTS_FILE, Manifest
from dinodeploy.bundle.text_facts import TEXT_OUTPUT
from dinodeploy.errors import BundleError
from dinodeploy.files import schema
from dinodeploy.files.atomic import atomic_file
from dinodeploy.files.cache import cache_dir
from dinodeploy.files.lock import wait_for_lock
from dinodeploy.files.regular import open_regular
from dinodeploy.parity.measurement import PATCH_METRICS, Measurement, Verdict
from dinodeploy.parity.tasks import measure_of, replaced
from dinodeploy.parity.thresholds import HEAD_THRESHOLDS, PIXEL_THRESHOLDS, TEXT_THRESHOLDS, THRESHOLDS

FILE_NAME = RECEIPTS_FILE
_WAIT = 5.0  # seconds; another process needs milliseconds


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
    judged_sha256: str = ""  # of `Manifest.judged_sha256`; older versions did not record it

    @property
    def outputs(self) -> set[str]:
        """Names of the outputs that were judged."""
        return {m.output for m in self.measurements}

    def holds(self, manifest: Manifest) -> bool:
        """Whether the numbers pass today's thresholds, whatever `passed` claims."""
        table = (*PIXEL_THRESHOLDS, *THRESHOLDS.get(self.recipe, ()))
        head, precision = manifest.head, manifest.graph.head_precision
        needed = {threshold.metric for threshold in table}
        if head is not None and {out.name for out in manifest.outputs} == set(head.outputs):
            needed = {threshold.metric for threshold in PIXEL_THRESHOLDS}  # a whole model: the head's alone
            needed |= {"head_error"} if replaced(head) != set(head.outputs) else set()
        table += HEAD_THRESHOLDS.get(precision if self.recipe == "fp32" else self.recipe, ())
        measure = measure_of(head)
        if head is not None and measure is not None and set(head.outputs) <= self.outputs:
            own = measure.limits(self.recipe, head, precision)
            table, needed = (*table, *own), needed | {threshold.metric for threshold in own}
        if TEXT_OUTPUT in self.outputs:
            table = TEXT_THRESHOLDS.get(self.recipe, ())
            needed = {threshold.metric for threshold in table}
        limits = {threshold.metric: threshold for threshold in table}
        judged = {m.metric for m in self.measurements}
        if "patch" not in self.outputs:
            judged |= PATCH_METRICS
        largest = [m.value or 0.0 for m in self.measurements if m.metric == "pixel_max"]
        if largest and max(largest) <= limits["pixel_p9999"].limit:  # earlier versions measured that alone
            judged.add("pixel_p9999")
        return (
            self.passed
            and self.recipe in THRESHOLDS
            and needed <= judged
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
        golden_sha256=engine.manifest.files[engine.golden].sha256,
        runtime=runtime,
        device=device,
        recipe=verdict.recipe,
        passed=verdict.passed,
        measurements=verdict.measurements,
        judged_sha256=engine.manifest.judged_sha256(engine.file, engine.golden),
    )


def find_receipt(engine: EngineChoice, runtime: str, device: str) -> Receipt | None:
    """A receipt that holds for each output of this engine on this runtime and device, or None."""
    manifest = engine.manifest
    hashes = manifest.engine_sha256(engine.file), manifest.files[engine.golden].sha256
    key = (engine.file, runtime, device, *hashes, manifest.graph.recipe)
    kept = [_read(path) for path in _places(engine.bundle)]
    for index, receipts in enumerate(kept):
        elsewhere = [receipt for place in kept[:index] + kept[index + 1 :] for receipt in place]
        for receipt in receipts:
            of = receipt.engine_sha256, receipt.golden_sha256, receipt.recipe
            same = (*_valid_for(receipt), *of) == key and _is_of_every_byte(receipt, engine, receipts)
            holds = same and receipt.outputs.issuperset(engine.outputs) and receipt.holds(manifest)
            if holds and not _voided(engine, elsewhere):
                return receipt
    return None


def _is_of_every_byte(receipt: Receipt, engine: EngineChoice, beside: Iterable[Receipt]) -> bool:
    """Whether a receipt is of all that the engine loads now.

    Receipts of older versions do not say. Those of graphs, which have the manifest's facts inside, count if
    `engine_sha256` is over every file: always in format 2; in format 1, where it is of one file alone, if the
    receipts beside it are of the others.
    """
    manifest = engine.manifest
    if receipt.judged_sha256:
        return receipt.judged_sha256 == manifest.judged_sha256(engine.file, engine.golden)
    if engine.facts.build is not None or manifest.format != 1:
        return engine.facts.build is None
    judged = {
        one.engine
        for one in beside
        if one.engine in manifest.all_engines
        and one.engine_sha256 == manifest.engine_sha256(one.engine)
        and one.holds(manifest)
    }
    return judged.issuperset(manifest.files_of(engine.file))


def _voided(engine: EngineChoice, receipts: Iterable[Receipt]) -> bool:
    """Whether one of `receipts` is of a failed judgement of the family of `engine` as it is now.

    Saving a failure removes what it voids, wherever that can be written; this finds what it could not.
    """
    family = engine.manifest.family(engine.file)
    return any(
        not receipt.passed
        and receipt.engine in family
        and receipt.judged_sha256 == engine.manifest.judged_sha256(receipt.engine, engine.golden)
        for receipt in receipts
    )


def save_receipt(bundle: Bundle, receipt: Receipt) -> Path | None:
    """Add a receipt, in place of an older one for the same engine, runtime and device.

    A failed one also takes the place of every receipt of the engine's family. Returns where it is kept: in
    the bundle, in the user's cache, or None when neither can be written.
    """
    voided = () if receipt.passed else bundle.manifest.family(receipt.engine)
    kept: Path | None = None
    for path in _places(bundle):
        if kept is not None and not path.exists():
            continue
        with _locked(path):
            old = _read(path)
            others = tuple(
                one
                for one in old
                if _valid_for(one) != _valid_for(receipt) and not (one.passed and one.engine in voided)
            )
            new = others if kept is not None else (*others, receipt)
            if (new == old or _write(path, new)) and kept is None:
                kept = path
    return kept


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file of receipts, where the system can.

    In a bundle its manifest is locked, since a signed bundle may hold no other file. On a file
    system without locks, one of two judgements at the same moment may be lost.
    """
    beside = path.with_name(MANIFEST_FILE)
    with ExitStack() as opened:
        with suppress(OSError):
            if beside.is_file():
                file = opened.enter_context(open_regular(beside))
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = opened.enter_context(path.with_suffix(".lock").open("ab"))
            wait_for_lock(file.fileno(), _WAIT)
        yield


def _write(path: Path, receipts: tuple[Receipt, ...]) -> bool:
    """Replace a file of receipts; False where it cannot be written."""
    content = schema.dump(Receipts(1, receipts))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")
    except OSError:
        return False
    return True


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
