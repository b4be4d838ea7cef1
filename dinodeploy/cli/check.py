"""`dinodeploy check`: judge a bundle on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dinodeploy import schema
from dinodeploy.cli.output import (
    DEVICE_HELP,
    WEIGHT_BUDGET_HELP,
    note,
    parse_gib,
    print_json,
    stdout,
)
from dinodeploy.embedder import check_bundle
from dinodeploy.parity import Measurement, Verdict

FAILED = 1

# Column heads that fit eighty characters; the JSON has the full names. Cosines are so near 1 that what
# they lack of it says more.
HEADS = {
    "pixel_max": "px max",
    "pixel_mean": "px mean",
    "relative_frobenius": "rel.Frob.",
    "max_abs": "max abs",
    "cosine": "1-cos",
    "patch_cosine_p01": "1-p01",
    "nearest_neighbour": "NN",
}


def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or an engine file inside one.")],
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.")] = None,
    weight_budget: Annotated[float | None, typer.Option(help=WEIGHT_BUDGET_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The verdict as JSON on stdout.")] = False,
) -> None:
    """Hash every file, run the engine on the golden photographs and compare: exit 0 or 1."""
    opened, receipt, verdict = check_bundle(
        bundle,
        device=device,
        threads=threads,
        weight_budget=parse_gib(weight_budget),
        say=partial(note, device),
    )
    if as_json:
        print_json({"bundle": str(opened.root), **schema.dump(receipt)})
    else:
        stdout().print(_table(verdict))
        word = "passed" if verdict.passed else f"FAILED, {len(verdict.failures)} measurements"
        print(f"{opened.engine_path}, {verdict.recipe}, {receipt.runtime}, {receipt.device}: {word}")
    if not verdict.passed:
        raise typer.Exit(FAILED)


def _table(verdict: Verdict) -> Table:
    """One row a case and output, one column a metric; what failed is marked."""
    metrics = list(dict.fromkeys(m.metric for m in verdict.measurements))
    limits = {m.metric: m.limit for m in verdict.measurements}
    rows: dict[tuple[str, str], dict[str, Measurement]] = {}
    for m in verdict.measurements:
        rows.setdefault((m.case, m.output), {})[m.metric] = m
    heads = (HEADS.get(metric, metric) for metric in metrics)
    table = Table("case", "output", *heads, box=None, pad_edge=False)
    for (case, output), row in rows.items():
        table.add_row(case, output, *(_cell(row.get(metric)) for metric in metrics))
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
    if metric == "nearest_neighbour":
        return f"{value:.2f}"
    return f"{abs(1 - value) if 'cosine' in metric else value:.1e}"
