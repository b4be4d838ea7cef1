"""Print predictions: a line per image, and the report, for `predict`, `classify` and `segment`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from dinodeploy.cli.output import PARTIAL, print_json, print_notes, say
from dinodeploy.errors import printable
from dinodeploy.tasks.predict import PredictReport

_SHOWN = 5  # classes or objects of a printed line


def print_row(as_json: bool) -> Callable[[dict[str, Any]], None]:
    """What to do with every row as it is made."""
    return (lambda row: None) if as_json else (lambda row: say(line_of(row)))


def print_report(report: PredictReport, html: Path | None, as_json: bool) -> None:
    """Print what was done. Raises typer.Exit with code 5 if some images could not be read."""
    if as_json:
        print_json(report.as_json())
    else:
        if report.out is not None:
            images = "" if report.task in ("classify", "regress") else " and images"
            say(f"{report.out}: {report.predicted} predictions in predictions.jsonl{images}")
        if html is not None:
            say(f"page: {html}; open it in a browser")
        say(report.counts.line("predicted"))
    print_notes((item.reason for item in report.quarantined), "quarantined")
    if report.quarantined:
        raise typer.Exit(PARTIAL)


def line_of(row: dict[str, Any]) -> str:
    """One prediction as a line of text."""
    if "classes" in row:
        listed = [f"{entry['class']} {entry['probability']:.3f}" for entry in row["classes"]]
        found = "  ".join(listed) or "no class"
    elif "values" in row:
        found = "  ".join(f"{name} {value:.4g}" for name, value in row["values"].items())
    elif "shares" in row:
        found = "  ".join(f"{name} {share:.1%}" for name, share in list(row["shares"].items())[:_SHOWN])
    elif "regions" in row:
        best = sorted(row["regions"], key=lambda region: -region["score"])
        words = [f"{region['class']} {region['score']:.2f}" for region in best[:_SHOWN]]
        more = len(best) - _SHOWN
        found = "  ".join([*words, *([f"and {more} more"] if more > 0 else [])]) or "nothing found"
    else:
        found = "  ".join(f"{word} {value:.2f} m" for word, value in row["metres"].items())
    return f"{printable(row['id'])}  {found}"
