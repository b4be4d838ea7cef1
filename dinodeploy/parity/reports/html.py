"""The report as one page for people: self-contained, light and dark, without scripts.

What passed and what did not comes first; then every number against its limit, where on a photograph the
worst case is off, how the error grows block by block, whether an index may stay, and the full table.
"""

from __future__ import annotations

from html import escape

from dinodeploy import __version__
from dinodeploy.parity.bisect import Bisection
from dinodeploy.parity.compare import Comparison
from dinodeploy.parity.judge import THRESHOLDS, Measurement, Verdict
from dinodeploy.parity.reports import Report
from dinodeploy.parity.reports.evidence import PatchErrors, worst_patches
from dinodeploy.parity.reports.plots import Bar, bars, growth, heat_map, meter
from dinodeploy.parity.reports.style import CSS

# metric -> (heading, what it says). Cosines are drawn by what they lack of 1.
CHARTS: dict[str, tuple[str, str]] = {
    "relative_frobenius": ("Relative error", "‖got − reference‖ / ‖reference‖"),
    "cosine": ("1 − cosine", "smallest over CLS, storage tokens or mean patches"),
    "patch_cosine_p01": ("1 − cosine, worst percent of patches", "first percentile over all patches"),
    "pixel_max": ("Preprocessing: largest difference", "grey levels of 255"),
    "pixel_mean": ("Preprocessing: mean difference", "grey levels of 255"),
}
LISTED = 6  # failures above the fold


def render(report: Report) -> str:
    """One HTML document. Runs the engine once more, for the map of its worst photograph."""
    patches = worst_patches(report.engine, report.verdict)
    parts = [
        _head(report),
        _facts(report),
        _measurements(report.verdict),
        _patches(patches, report.verdict.recipe) if patches else "",
        _bisection(report.bisection, report.bisect_words) if report.bisection else "",
        _comparison(report.comparison) if report.comparison else "",
        _table(report.verdict),
        _foot(report),
    ]
    title = f"{_word(report)}: {escape(report.bundle.root.resolve().name)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _word(report: Report) -> str:
    return "passed" if report.verdict.passed else "failed"


def _head(report: Report) -> str:
    verdict, model = report.verdict, report.bundle.manifest.model
    total, failed = len(verdict.measurements), len(verdict.failures)
    kind = "pass" if verdict.passed else "fail"
    mark = "✓ Passed" if verdict.passed else "✕ Failed"
    agree = f"All {total} measurements agree with the fp32 reference, within {verdict.recipe}’s limits."
    differ = f"{failed} of {total} measurements are outside {verdict.recipe}’s limits: not the model here."
    words = agree if verdict.passed else differ
    name = f"{report.bundle.root.resolve().name}: {model.arch}, {verdict.recipe}"
    return (
        f'<header>\n<span class="mark {kind}">{mark}</span>\n<h1>{escape(name)}</h1>\n'
        f'<p class="lead">{escape(words)}</p>\n{_failures(verdict)}</header>'
    )


def _failures(verdict: Verdict) -> str:
    if verdict.passed:
        return ""
    lines = [
        f"<li><b>{escape(f'{m.case}, {m.output}')}</b>: {escape(m.sentence)}</li>" for m in verdict.failures
    ]
    more = len(lines) - LISTED
    shown = lines[:LISTED] + ([f"<li>and {more} more, in the table below</li>"] if more > 0 else [])
    return f'<ul class="failures">{"".join(shown)}</ul>\n'


def _facts(report: Report) -> str:
    manifest, receipt = report.bundle.manifest, report.receipt
    preprocess = manifest.preprocess
    facts = {
        "Engine": receipt.engine,
        "Runtime": receipt.runtime,
        "Device": receipt.device,
        "Weights": f"{manifest.model.source} ({manifest.model.weights})",
        "Graph": f"{manifest.graph.dialect}, opset {manifest.graph.opset}",
        "Preprocessing": f"{preprocess.preset}, {preprocess.height}×{preprocess.width}",
        "Engine’s SHA-256": f"{receipt.engine_sha256[:16]}…",
        "Judged": f"{report.started:%Y-%m-%d %H:%M} UTC, {report.seconds:.1f} s",
    }
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{rows}</dl>'


def _measurements(verdict: Verdict) -> str:
    charts = "\n".join(_chart(verdict, metric) for metric in CHARTS)
    note = "Golden photographs through this engine, against the fp32 reference. Shorter is better."
    return _section("Every number against its limit", note, charts)


def _chart(verdict: Verdict, metric: str) -> str:
    found = [m for m in verdict.measurements if m.metric == metric]
    if not found:
        return ""
    heading, words = CHARTS[metric]
    rows = [
        Bar(f"{m.case} · {m.output}", _shown(m), m.passed, f"{m.case}/{m.output}: {m.sentence}")
        for m in found
    ]
    limit = found[0].limit
    if limit is not None and "cosine" in metric:
        limit = 1 - limit
    return f"<h3>{heading} <span class=note>{escape(words)}</span></h3>\n{bars(rows, limit, heading)}"


def _shown(m: Measurement) -> float | None:
    """A measurement as it is drawn: cosines by what they lack of 1."""
    if m.value is None:
        return None
    return abs(1 - m.value) if "cosine" in m.metric else m.value


def _patches(found: PatchErrors, recipe: str) -> str:
    note = (
        f"The photograph of case {found.case} that is furthest off, as the model sees it, and the relative "
        "error of each patch. Even and dark is rounding; an edge, a stripe, a bright block is a fault."
    )
    limit = next(row.limit for row in THRESHOLDS[recipe] if row.metric == "relative_frobenius")
    return _section("Where on the picture", note, heat_map(found, limit))


def _bisection(bisection: Bisection, words: str) -> str:
    note = (
        f"The residual stream of case {bisection.case} after every block. Own step: what a block adds, "
        "against what it should add; of what leads into a stream or out of it, the error of what it makes. "
        "The first step that jumps above the limit is where the engine departs."
    )
    kind = "answer" if bisection.departs is None else "answer fail"
    answer = f'<p class="{kind}">{escape(_sentence(words))}</p>'
    return _section("Block by block", note, answer + growth(bisection))


def _comparison(comparison: Comparison) -> str:
    note = (
        f"{comparison.images} pictures, {comparison.k} neighbours: an index built with {comparison.bundle}, "
        f"searched with {comparison.other}. {_sentence(comparison.note)}"
    )
    kind = "answer fail" if comparison.reindex else "answer"
    word = "Reindex: the two engines’ embeddings do not mix." if comparison.reindex else "No need to reindex."
    rows = "".join(
        f"<h3>{escape(f.metric.replace('_', ', '))}: {_six(f.value)}, wanted {f.at_least:g} "
        f'<span class="note">{escape(f.reason)}</span></h3>{meter(f.value, f.at_least)}'
        for f in comparison.findings
    )
    return _section("May the index stay?", note, f'<p class="{kind}">{word}</p>{rows}')


def _table(verdict: Verdict) -> str:
    rows = sorted(verdict.measurements, key=lambda m: m.passed)  # failures first, else as judged
    body = "".join(
        f"<tr{'' if m.passed else ' class=fail'}><td>{escape(m.case)}</td><td>{escape(m.output)}</td>"
        f"<td>{escape(m.metric)}</td><td class=number>{_number(m.value)}</td>"
        f"<td class=number>{'' if m.limit is None else _number(m.limit)}</td><td>{escape(m.note)}</td></tr>"
        for m in rows
    )
    head = "<tr><th>case<th>output<th>metric<th class=number>value<th class=number>limit<th>note</tr>"
    table = f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
    state = "" if verdict.passed else " open"
    summary = f"<summary>All {len(rows)} measurements</summary>"
    return f"<section><details{state}>{summary}{table}</details></section>"


def _foot(report: Report) -> str:
    return f"<footer>dinodeploy {__version__}. {escape(report.bundle.manifest.licence)}</footer>"


def _section(heading: str, note: str, body: str) -> str:
    return f'<section>\n<h2>{escape(heading)}</h2>\n<p class="note">{escape(note)}</p>\n{body}\n</section>'


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("." if words else "")


def _six(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6f}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.7g}"
