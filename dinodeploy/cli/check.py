"""`dinodeploy check`: judge a bundle on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dinodeploy import schema
from dinodeploy.cli.output import print_json, stdout
from dinodeploy.embedder import check_bundle
from dinodeploy.parity import Measurement, Verdict

FAILED = 1

# Column heads that fit eighty characters; the JSON has the full names.
HEADS = {
    "pixel_max": "px max",
    "pixel_mean": "px mean",
    "relative_frobenius": "rel. Frob.",
    "max_abs": "max abs",
    "cosine": "cosine",
    "patch_cosine_p01": "patch p01",
    "nearest_neighbour": "1-NN",
}


def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or an engine file inside one.")],
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The verdict as JSON on stdout.")] = False,
) -> None:
    """Hash every file, run the engine on the golden photographs and compare: exit 0 or 1."""
    opened, receipt, verdict = check_bundle(bundle, threads=threads)
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
    table.add_row("limit", "", *("" if limits[metric] is None else f"{limits[metric]:g}" for metric in metrics))
    return table


def _cell(m: Measurement | None) -> str:
    if m is None:
        return ""
    value = m.note or "not finite"
    if m.value is not None:
        value = f"{m.value:.7f}" if "cosine" in m.metric else f"{m.value:.1e}"
    return value if m.passed else f"[bold red]{value} FAILED[/]"
