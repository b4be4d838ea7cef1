"""`dinodeploy debug`: hand a bundle to Polygraphy, and reduce a graph that fails to its faulty part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from dinodeploy.bundle.manifest import MODEL_FILE
from dinodeploy.cli import output
from dinodeploy.cli.options import RequireSignature
from dinodeploy.hardware.packages import reach


def debug(
    bundle: Annotated[Path, Argument(help="The bundle to debug.")],
    out: Annotated[Path, Option(help="Folder for inputs, reference outputs and findings.")] = Path("debug"),
    runner: Annotated[
        str | None,
        Option(help="Runtime to look for a fault in: tensorrt, onnxruntime, or module:function."),
    ] = None,
    graph: Annotated[str, Option(help="Graph of the bundle that the runner gets.")] = MODEL_FILE,
    require_signature: RequireSignature = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace what an earlier run wrote.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Write golden inputs and outputs for Polygraphy; with --runner, reduce a wrong graph to its fault."""
    found = reach("exporters.debug.debug_bundle", "debug").debug_bundle(
        bundle,
        out,
        runner=runner,
        graph=graph,
        require_signature=require_signature,
        overwrite=overwrite,
        log=output.log,
    )
    if as_json:
        output.print_json(found.to_json())
    else:
        for line in found.lines():
            output.say(line)
    if found.fault is not None:
        raise typer.Exit(output.FAILED)
