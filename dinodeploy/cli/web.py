"""`dinodeploy web`: write a static page that runs a bundle in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import log, print_json, say
from dinodeploy.errors import MisuseError
from dinodeploy.web.site import write_site


def web(
    places: Annotated[
        list[Path],
        Argument(metavar="BUNDLE... DIR", help="Bundles of one model, and the folder to write."),
    ],
    runtime: Annotated[
        Path | None,
        Option(help="Folder with onnxruntime-web. Default: downloaded from npm once."),
    ] = None,
    require_signature: RequireSignature = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an existing page.")] = False,
    as_json: Annotated[bool, Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Write a static page that embeds images in the browser and compares itself with the reference."""
    *bundles, out = places
    if not bundles:
        raise MisuseError(f"got one path, {out}; wanted a bundle, and the folder to write")
    site = write_site(
        bundles, out, runtime=runtime, require_signature=require_signature, overwrite=overwrite, log=log
    )
    if as_json:
        print_json({"site": str(site.root), "graphs": list(site.graphs), "runtime": site.runtime})
        return
    for graph in site.graphs:
        say(f"{site.root / graph['file']}: {graph['precision']}, {graph['bytes'] / 1e6:.1f} MB to download")
    say(f"runtime: {site.runtime}")
    say(f"next: python -m http.server --directory {site.root} 8080, then open http://localhost:8080")
