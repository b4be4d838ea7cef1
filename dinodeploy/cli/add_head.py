"""`dinodeploy add-head`: a bundle and a head file become a bundle that has both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dinodeploy.bundle.bundle import open_bundle
from dinodeploy.cli.output import print_json, stages, stderr
from dinodeploy.cli.reach import reach


def add_head(
    bundle: Annotated[Path, typer.Argument(help="A bundle without a head.")],
    head: Annotated[str, typer.Option(help="A head file, or pyramid:3,5,7,11.")],
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Put a head behind the backbone, in every graph of the bundle, and judge the whole here."""
    heads = reach("exporters.heads", "add-head")
    model = open_bundle(bundle).manifest.model
    loaded = heads.find_head(head, model.embed_dim, model.depth, model.patch_size)
    with stages() as say:
        made, _, notes = heads.add_head(bundle, loaded, out, overwrite=overwrite, say=say)
    for note in notes:
        stderr().print(f"note: {note}", markup=False)
    if as_json:
        print_json(head_facts(made) | {"notes": list(notes)})
        return
    print_head(made)


def head_facts(bundle: Any) -> dict[str, Any]:
    """What a bundle with a head is, for JSON."""
    head = bundle.manifest.head
    return {
        "bundle": str(bundle.root),
        "head": head.kind,
        "task": head.task,
        "outputs": list(head.outputs),
        "classes": list(head.classes),
    }


def print_head(bundle: Any) -> None:
    """The same for people, and what comes next."""
    head = bundle.manifest.head
    print(f"{bundle.root}: {bundle.manifest.model.arch} with {head.kind}, outputs {', '.join(head.outputs)}")
    if head.task in ("classify", "segment", "depth"):
        print(f"next: dinodeploy predict IMAGES --engine {bundle.root}")
    else:
        names = ",".join(head.outputs)
        print(f"next: dinodeploy embed IMAGES --engine {bundle.root} --outputs {names} --out features")
