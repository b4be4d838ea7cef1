"""Shared first and last steps of making a bundle: refuse to overwrite, verify parity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.manifest import Manifest
from dinodeploy.errors import JudgementError, OutputExistsError
from dinodeploy.files.system_files import is_free
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.judge import rejection
from dinodeploy.parity.receipts import Receipt


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raises OutputExistsError unless `out` is free, or a bundle that may be overwritten."""
    if is_free(out):
        return
    if not (out / manifests.FILE_NAME).is_file():
        raise OutputExistsError(f"{out} exists and is not a bundle; choose another --out")
    if not overwrite:
        raise OutputExistsError(f"{out} holds a bundle already; give --overwrite or another --out")


def judge_staged(staging: Path, manifest: Manifest, log: Callable[[str], None]) -> Receipt:
    """Write the manifest and judge the bundle in `staging`; returns the receipt. Raises JudgementError."""
    manifests.write_manifest(manifest, staging)
    log("judging the bundle on this machine")
    receipt = _judge(staging)
    first, *others = (name for name, facts in manifest.engines.items() if facts.backend == "onnxruntime")
    for engine in others:  # engines of other backends are judged on first use
        if manifest.engines[engine].same_numbers_as in (None, first):
            _judge(staging / engine)
    return receipt


def _judge(engine: Path) -> Receipt:
    """The passing receipt of a new bundle, or of one engine in it. Raises JudgementError."""
    choice, receipt, verdict = check_bundle(engine, device="onnxruntime")
    if not verdict.passed:
        raise JudgementError(rejection(choice, verdict))
    return receipt
