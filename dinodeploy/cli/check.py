"""`dinodeploy check`: judge a bundle on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from typer import Argument, Option

from dinodeploy.bundle.text_facts import TEXT_OUTPUT
from dinodeploy.cli import output
from dinodeploy.cli.options import RequireSignature
from dinodeploy.errors import MisuseError
from dinodeploy.hardware.packages import reach
from dinodeploy.parity.bisect import Bisection
from dinodeploy.parity.check import check_bundle
from dinodeploy.parity.compare import Comparison, compare
from dinodeploy.parity.measurement import Measurement
from dinodeploy.parity.reports import Report, check_targets, write_report
from dinodeploy.parity.text import TOKENS
from dinodeploy.pipeline.progress import image_progress
from dinodeploy.sources.folders import list_images

# Column heads that fit eighty characters; the JSON has the full names. Cosines and overlaps are so near 1
# that what they lack of it says more.
HEADS = {
    "pixel_max": "px max",
    "pixel_p9999": "px p99.99",
    "pixel_mean": "px mean",
    "relative_frobenius": "rel.Frob.",
    "max_abs": "max abs",
    "cosine": "1-cos",
    "patch_cosine_p01": "1-p01",
    "nearest_neighbour": "NN",
    "head_error": "head",
    "class_agreement": "classes",
    "same_tokens": "tokens",
    "largest_error": "error",
    "queries_changed": "changed",
    "score_error": "score",
    "box_error": "box",
    "box_iou": "1-IoU",
    "mask_iou": "1-IoU",
}
ONLY_FAILED = frozenset({"pixel_p9999"})  # the JSON has them; a column only where one failed


def check(
    bundle: Annotated[Path, Argument(help="A bundle, an engine file inside one, or hf://ORG/NAME.")],
    device: Annotated[str, Option(help=output.DEVICE_HELP)] = "auto",
    threads: Annotated[int | None, Option(help="Threads of a CPU engine.")] = None,
    weight_budget: Annotated[float | None, Option(help=output.WEIGHT_BUDGET_HELP)] = None,
    require_signature: RequireSignature = None,
    bisect: Annotated[bool, Option("--bisect", help="Find the first block that differs.")] = False,
    against: Annotated[
        Path | None, Option(help="Another bundle: can it search an index built with this one?")
    ] = None,
    images: Annotated[Path | None, Option(help="Images to compare the two on.")] = None,
    neighbours: Annotated[int, Option("--neighbours", "-k", help="Nearest neighbours per search.")] = 10,
    report: Annotated[
        list[Path] | None, Option(help="Write a report: .json, .xml (JUnit) or .html. Repeatable.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Verify every file, run the engine on the golden photographs and compare. Exit code 0 or 1."""
    check_targets(report or [])
    if (against is None) != (images is None):
        raise MisuseError("--against and --images belong together: another bundle, and images to compare on")
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    engine, receipt, verdict = check_bundle(
        bundle,
        device=device,
        threads=threads,
        weight_budget=output.parse_gib(weight_budget),
        require_signature=require_signature,
        log=partial(output.note, device),
    )
    growth = comparison = None
    if bisect:
        growth = reach("exporters.bisect", "--bisect").bisect_bundle(engine, threads=threads)
    if against is not None and images is not None:
        if verdict.passed:
            comparison = _compare(bundle, against, images, neighbours, threads, require_signature)
        else:
            output.log(f"not compared with {against}: this engine itself failed")
    seconds = time.perf_counter() - clock
    found = Report(engine, receipt, verdict, growth, comparison, started, seconds)
    for path in report or []:
        write_report(found, path)
    if as_json:
        output.print_json(found.as_json())
    else:
        _print(found)
    if not found.passed:
        raise typer.Exit(output.FAILED)


def _compare(
    bundle: Path, against: Path, images: Path, k: int, threads: int | None, key: Path | None
) -> Comparison:
    ids = list_images([images], output.note_skipped)
    with image_progress(len(ids)) as advance:
        return compare(bundle, against, ids, k=k, threads=threads, require_signature=key, advance=advance)


def _print(found: Report) -> None:
    verdict, head = found.verdict, found.bundle.manifest.head
    of_head = [m for m in verdict.measurements if head is not None and m.output in head.outputs]
    of_text = [m for m in verdict.measurements if m.output in (TOKENS, TEXT_OUTPUT)]
    output.stdout().print(_table([m for m in verdict.measurements if m not in (*of_head, *of_text)]))
    for part in (of_head, of_text):
        if part:
            output.stdout().print("", _table(part))
    output.say(output.verdict_line(found))
    if found.bisection is not None:
        output.stdout().print("", _growth(found.bisection))
        output.say(f"bisect: {found.bisect_words}")
    if found.comparison is not None:
        output.stdout().print("", _findings(found.comparison))
        output.say(
            found.comparison.verdict + (f" ({found.comparison.note})" if found.comparison.note else "")
        )


def _table(measurements: Sequence[Measurement]) -> Table:
    """One row a case and output, one column a metric; what failed is marked."""
    shown = (m.metric for m in measurements if m.metric not in ONLY_FAILED or not m.passed)
    metrics = list(dict.fromkeys(shown))
    limits = {m.metric: m.limit for m in measurements}
    rows: dict[tuple[str, str], dict[str, Measurement]] = {}
    for m in measurements:
        rows.setdefault((m.case, m.output), {})[m.metric] = m
    heads = (HEADS.get(metric, metric) for metric in metrics)
    table = Table("case", "output", *heads, box=None, pad_edge=False)
    for case_and_output, row in rows.items():
        table.add_row(*case_and_output, *(_cell(row.get(metric)) for metric in metrics))
    table.add_row("limit", "", *(_number(metric, limits[metric]) for metric in metrics))
    return table


def _cell(m: Measurement | None) -> str:
    if m is None:
        return ""
    shown = m.note or (_number(m.metric, m.value) if m.value is not None else "not finite")
    return shown if m.passed else f"[bold red]{shown} FAILED[/]"


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    if metric in ("nearest_neighbour", "class_agreement"):
        return f"{value:.2f}"
    return _finite(value, lack="cosine" in metric or metric.endswith("_iou"))


def _growth(bisection: Bisection) -> Table:
    """One row a place: its own step, and how far each kind of tokens is off there."""
    heads = (head for kind in bisection.kinds for head in (f"{kind} err", "1-cos"))
    table = Table("place", "step", *heads, box=None, pad_edge=False)
    for place in bisection.places:
        errors = (place.groups.get(kind) for kind in bisection.kinds)
        cells = [
            c for e in errors for c in ((_finite(e.error), _finite(e.cosine, lack=True)) if e else ("", ""))
        ]
        row = [place.name, _finite(place.step), *cells]
        table.add_row(*row, style="bold red" if place.name == bisection.departs else None)
    return table


def _findings(comparison: Comparison) -> Table:
    table = Table("metric", "found", "wanted", "because", box=None, pad_edge=False)
    for f in comparison.findings:
        found = "not finite" if f.value is None else f"{f.value:.6f}"
        style = None if f.passed else "bold red"
        table.add_row(f.metric, found, f"{f.at_least:g}", f.reason, style=style)
    return table


def _finite(value: float | None, *, lack: bool = False) -> str:
    if value is None:
        return "not finite"
    return f"{abs(1 - value) if lack else value:.1e}"
