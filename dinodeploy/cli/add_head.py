"""`dinodeploy add-head`: add a head to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.cli.options import RequireSignature
from dinodeploy.cli.output import print_json, print_notes, say
from dinodeploy.hardware.packages import reach
from dinodeploy.pipeline.progress import step_progress


def add_head(
    bundle: Annotated[Path, Argument(help="Bundle without a head.")],
    head: Annotated[str, Option(help="Head file, or pyramid:3,5,7,11 (blocks of a feature pyramid).")],
    out: Annotated[Path, Option(help="Bundle to write.")],
    require_signature: RequireSignature = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an existing bundle.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Append a head to the backbone in every graph of a bundle, and judge the result on this machine."""
    heads = reach("exporters.heads", "add-head")
    source = open_bundle(bundle, require_signature=require_signature)
    model = source.manifest.model
    loaded = heads.find_head(head, model.embed_dim, model.depth, model.patch_size)
    with step_progress() as log:
        made, notes = heads.add_head(source, loaded, out, overwrite=overwrite, log=log)
    print_notes(notes)
    if as_json:
        print_json(head_facts(made) | {"notes": list(notes)})
        return
    print_head(made)


def head_facts(bundle: Any) -> dict[str, Any]:
    """A bundle with a head, as JSON."""
    head = bundle.manifest.head
    facts = {"bundle": str(bundle.root), "head": head.kind, "task": head.task}
    return {**facts, "outputs": list(head.outputs), "classes": list(head.classes)}


def print_head(bundle: Any) -> None:
    """Print a bundle with a head, and the next command."""
    head = bundle.manifest.head
    say(f"{bundle.root}: {bundle.manifest.model.arch} with {head.kind}, outputs {', '.join(head.outputs)}")
    if head.task in ("classify", "regress", "segment", "depth"):
        say(f"next: dinodeploy predict IMAGES --engine {bundle.root}")
    else:
        names = ",".join(head.outputs)
        say(f"next: dinodeploy embed IMAGES --engine {bundle.root} --outputs {names} --out features")
