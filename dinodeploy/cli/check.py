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
    table = Table("case", "output", "metric", "value", "limit", "", box=None, pad_edge=False)
    for m in verdict.measurements:
        limit = "" if m.limit is None else f"{m.limit:g}"
        table.add_row(m.case, m.output, m.metric, _value(m), limit, "" if m.passed else "FAILED")
    return table


def _value(m: Measurement) -> str:
    if m.value is None:
        return m.note or "not finite"
    return f"{m.value:.7f}" if "cosine" in m.metric else f"{m.value:.2e}"
