"""The parity report as an HTML page (template `pages/report.html`). Needs the extra `plots`.

The verdict comes first; then every number against its limit, the map of the image with the largest error, the
error block by block, whether an index can stay, and the full table.

Shapes: B batch, H W pixels, h w patch grid, D embed_dim.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from dinodeploy.arrays import FloatArray
from dinodeploy.bundle.bundle import GOLDEN_FILE, EngineChoice
from dinodeploy.embedder import Embedder
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.pages import jpeg_uri, render_page
from dinodeploy.parity.bisect import Bisection
from dinodeploy.parity.compare import Comparison
from dinodeploy.parity.golden import GoldenCase, load_golden
from dinodeploy.parity.measurement import Measurement, Verdict
from dinodeploy.parity.reports import Report
from dinodeploy.parity.thresholds import relative_limit
from dinodeploy.plots import inline_svg
from dinodeploy.plots.parity import Bar, PatchErrors, draw_bars, draw_growth, draw_meter, draw_patch_errors

# metric -> (heading, what it says). Cosines are drawn by what they lack of 1.
CHARTS: dict[str, tuple[str, str]] = {
    "relative_frobenius": ("Relative error", "‖got − reference‖ / ‖reference‖"),
    "cosine": ("1 − cosine", "smallest over CLS, storage tokens or mean patches"),
    "patch_cosine_p01": ("1 − cosine, worst percent of patches", "first percentile over all patches"),
    "pixel_max": ("Preprocessing: largest difference", "grey levels of 255"),
    "pixel_p9999": ("Preprocessing: difference that 9,999 of 10,000 keep", "grey levels of 255"),
    "pixel_mean": ("Preprocessing: mean difference", "grey levels of 255"),
}
LISTED = 6  # failures above the fold
PHOTO_PIXELS = 480  # longest side of the image that is shown


def render(report: Report) -> str:
    """One HTML document. Runs the engine once more, for the map of the image with the largest error."""
    verdict, manifest = report.verdict, report.bundle.manifest
    return render_page(
        "report",
        name=report.bundle.name,
        passed=verdict.passed,
        arch=manifest.model.arch,
        recipe=verdict.recipe,
        measurements=verdict.measurements,
        failures=verdict.failures,
        listed=LISTED,
        facts=_facts(report),
        charts=list(_charts(verdict)),
        patches=_patches(worst_patches(report.engine, verdict), verdict.recipe),
        bisection=_bisection(report.bisection, report.bisect_words),
        comparison=_comparison(report.comparison),
        number=lambda value, missing: missing if value is None else f"{value:.7g}",
        licence=manifest.licence,
    )


def _facts(report: Report) -> dict[str, str]:
    manifest, receipt = report.bundle.manifest, report.receipt
    preprocess = manifest.preprocess
    return {
        "Engine": receipt.engine,
        "Runtime": receipt.runtime,
        "Device": receipt.device,
        "Weights": f"{manifest.model.source} ({manifest.model.weights})",
        "Graph": f"{manifest.graph.dialect}, opset {manifest.graph.opset}",
        "Preprocessing": f"{preprocess.preset}, {preprocess.height}×{preprocess.width}",
        "Engine’s SHA-256": f"{receipt.engine_sha256[:16]}…",
        "Judged": f"{report.started:%Y-%m-%d %H:%M} UTC, {report.seconds:.1f} s",
    }


def _charts(verdict: Verdict) -> Any:
    for metric, (heading, words) in CHARTS.items():
        found = [m for m in verdict.measurements if m.metric == metric]
        if not found:
            continue
        rows = [
            Bar(f"{m.case} · {m.output}", _shown(m), m.passed, f"{m.case}/{m.output}: {m.sentence}")
            for m in found
        ]
        limit = found[0].limit
        if limit is not None and "cosine" in metric:
            limit = 1 - limit
        yield {"heading": heading, "words": words, "plot": inline_svg(draw_bars(rows, limit, heading))}


def _shown(m: Measurement) -> float | None:
    """A measurement as it is drawn: cosines by what they lack of 1."""
    if m.value is None:
        return None
    return abs(1 - m.value) if "cosine" in m.metric else m.value


def worst_patches(engine: EngineChoice, verdict: Verdict) -> PatchErrors | None:
    """Run the case with the largest patch error. None where the engine has no patch output of that shape."""
    cases = {case.name: case for case in load_golden(engine.root / GOLDEN_FILE)}
    case = cases[_worst_case(verdict)]
    with Embedder.open_located(engine.bundle, engine.file, allow_unverified=True) as embedder:
        got = embedder.run(case.pixels).get("patch")
    if got is None or got.shape != case.outputs["patch"].shape:
        return None
    return _patch_errors(case, got, engine.manifest.preprocess)


def _patch_errors(case: GoldenCase, got: FloatArray, preprocess: Preprocess) -> PatchErrors:
    """The image of `case` with the largest error in `got` [B,h,w,D]."""
    wanted = case.outputs["patch"].astype(np.float64)
    lengths = np.linalg.norm(wanted, axis=-1)
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.linalg.norm(got - wanted, axis=-1) / np.where(lengths > 0, lengths, 1.0)
    errors[~np.isfinite(errors)] = np.nan
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors).max(axis=(1, 2))))
    grey = case.pixels[worst].transpose(1, 2, 0) * np.array(preprocess.std) + np.array(preprocess.mean)
    return PatchErrors(case.name, np.clip(grey * 255 + 0.5, 0, 255).astype(np.uint8), errors[worst])


def _worst_case(verdict: Verdict) -> str:
    """The case with the largest relative patch error; a value that is not finite counts as larger."""
    found = [m for m in verdict.measurements if m.output == "patch" and m.metric != "max_abs"]
    worst = max(
        (m for m in found if m.metric == "relative_frobenius" or m.value is None),
        key=lambda m: np.inf if m.value is None else m.value,
    )
    return worst.case


def _patches(found: PatchErrors | None, recipe: str) -> dict[str, Any] | None:
    if found is None:
        return None
    limit = relative_limit(recipe)
    plot = draw_patch_errors(found, limit)
    image = Image.fromarray(found.image)
    image.thumbnail((PHOTO_PIXELS, PHOTO_PIXELS))
    width = round(2 * plot.width + 16)
    return {"case": found.case, "image": jpeg_uri(image), "plot": inline_svg(plot), "width": width}


def _bisection(bisection: Bisection | None, words: str) -> dict[str, Any] | None:
    if bisection is None:
        return None
    plot = inline_svg(draw_growth(bisection))
    return {"case": bisection.case, "departs": bisection.departs, "answer": _sentence(words), "plot": plot}


def _comparison(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    findings = [
        {
            "metric": found.metric.replace("_", ", "),
            "value": "not finite" if found.value is None else f"{found.value:.6f}",
            "at_least": f"{found.at_least:g}",
            "reason": found.reason,
            "plot": inline_svg(draw_meter(found.value, found.at_least)),
        }
        for found in comparison.findings
    ]
    return {
        "images": comparison.images,
        "k": comparison.k,
        "bundle": comparison.bundle,
        "other": comparison.other,
        "note": _sentence(comparison.note),
        "reindex": comparison.reindex,
        "findings": findings,
    }


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("." if words else "")
