"""Shared first and last steps of making a bundle: refuse to overwrite, verify parity."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dinodeploy.backends.select import candidates
from dinodeploy.bundle import manifest as manifests
from dinodeploy.bundle.bundle import EngineChoice, open_bundle
from dinodeploy.bundle.manifest import CLS_ONLY_OUTPUTS, VNNI_FILE, Manifest
from dinodeploy.errors import JudgementError
from dinodeploy.files import system_files
from dinodeploy.hardware.instructions import missing_instructions
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.golden import load_golden
from dinodeploy.parity.judge import rejection
from dinodeploy.parity.receipts import Receipt
from dinodeploy.text.encoder import TextEncoder
from exporters.precision.recipes import RECIPES, RESIDUAL

BF16_BITS = 7  # of the mantissa


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raises OutputExistsError unless `out` is free, or a bundle that may be overwritten."""
    is_own = (out / manifests.FILE_NAME).is_file()
    system_files.refuse_existing(out, overwrite, is_own=is_own, wrong="not a bundle", held="a bundle")


def judge_staged(
    staging: Path, manifest: Manifest, log: Callable[[str], None]
) -> tuple[Receipt, tuple[str, ...]]:
    """Write the manifest and judge the bundle in `staging`. Returns a receipt, and notes for the user.

    Every graph that this CPU can run is judged on ONNX Runtime. So is what `--device auto` runs here, if that
    is another runtime, which may compute in another precision: then the receipt is of that, and a note names
    it. If only that fails, the bundle is good for `--device onnxruntime`, and the note says so.
    Raises JudgementError.
    """
    manifests.write_manifest(manifest, staging)
    log("judging the bundle on this machine")
    notes: list[str] = []
    found = [_judge_auto(staging, manifest, outputs, notes) for outputs in (None, CLS_ONLY_OUTPUTS)]
    engines = manifest.engines  # those of other backends are judged on first use
    runs = [name for name in manifest.order if engines[name].backend == "onnxruntime"]
    runs = [name for name in runs if not missing_instructions(engines[name].instructions)]
    receipts = {
        engine: _judge(staging / engine)
        for engine in runs
        if engines[engine].same_numbers_as in (None, runs[0], VNNI_FILE)
    }
    if manifest.text is not None:
        _judge_text(staging)
    best = candidates(open_bundle(staging), "onnxruntime")[0].file
    return found[0] or receipts[best], tuple(notes)


def _judge_text(staging: Path) -> None:
    """Judge the text graph and its tokenizer on ONNX Runtime. Raises JudgementError."""
    TextEncoder.open(open_bundle(staging), device="onnxruntime").close()


def _judge_auto(
    staging: Path, manifest: Manifest, outputs: tuple[str, ...] | None, notes: list[str]
) -> Receipt | None:
    """The passing receipt of what `--device auto` runs, unless that is ONNX Runtime on a CPU."""
    if not set(outputs or ()) <= {output.name for output in manifest.outputs}:
        return None
    first = candidates(open_bundle(staging), "auto", outputs)[0]
    if first.backend == "onnxruntime":
        return None
    choice, receipt, verdict = check_bundle(staging, text=False, device="auto", outputs=outputs)
    if choice.backend == "onnxruntime":  # the better ones do not run here
        return None
    what = f"--device auto runs {choice.file} on {receipt.runtime} here"
    if verdict.passed:
        notes.append(f"{what}: judged too")
        return receipt
    why = verdict.failures[0]
    notes.append(f"{what}, which failed the judge ({why.output}: {why.sentence}); use --device onnxruntime")
    return None


def _judge(engine: Path) -> Receipt:
    """The passing receipt of one engine of a new bundle, on ONNX Runtime. Raises JudgementError."""
    choice, receipt, verdict = check_bundle(engine, text=False, device="onnxruntime")
    if not verdict.passed:
        raise JudgementError(rejection(choice, verdict) + _on_the_stream(choice))
    return receipt


def _on_the_stream(choice: EngineChoice) -> str:
    """For a recipe with a residual stream in 16 bits: how large that gets, and the recipe that keeps it."""
    recipe = RECIPES[choice.manifest.graph.recipe]
    traces = [trace for case in load_golden(choice.root / choice.golden) for trace in case.traces]
    if RESIDUAL not in recipe.roles or not traces:
        return ""
    largest = max(float(np.abs(trace.blocks).max()) for trace in traces)
    step = 2.0 ** (math.floor(math.log2(largest)) - BF16_BITS)
    return (
        f"; the residual stream reaches {largest:,.0f}, where bf16 counts in steps of {step:,.3g}: use "
        "--precision bf16, whose stream is fp32"
    )
