"""`dinodeploy doctor`: what this machine has, whether a bundle runs on it, and how to fix problems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import CANNOT, print_json, say
from dinodeploy.doctor import examine, report_lines


def doctor(
    bundle: Annotated[Path | None, Argument(help="Bundle to try on this machine.")] = None,
    require_signature: RequireSignature = None,
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Examine this machine and print problems with the commands that fix them. Exit code 0 or 4."""
    diagnosis = examine(bundle, require_signature=require_signature)
    if as_json:
        print_json(diagnosis.as_json())
    else:
        say("\n".join(report_lines(diagnosis)))
    if not diagnosis.fine:
        raise typer.Exit(CANNOT)
