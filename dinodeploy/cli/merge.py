"""`dinodeploy merge`: several stores of one model become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dinodeploy.cli.output import print_json, say
from dinodeploy.store.merge import merge as merge_stores


def merge(
    stores: Annotated[
        list[Path], Argument(help="Embeddings (from `dinodeploy embed`) of one model.", metavar="OUT...")
    ],
    out: Annotated[Path, Option(help="Directory to write.")],
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a store at --out.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Merge stores of embeddings into one. An id that several of them hold must have equal rows."""
    report = merge_stores(stores, out=out, overwrite=overwrite)
    if as_json:
        print_json(report.as_json())
        return
    say(f"{report.out}: {report.embedded} images of {len(stores)} stores, {report.repeated} of them repeated")
    if report.quarantined:
        say(f"{report.quarantined} images quarantined; reasons in {report.out}/quarantine.jsonl")
