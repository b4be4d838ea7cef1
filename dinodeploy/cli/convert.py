"""`dinodeploy convert`: convert a checkpoint from one layout to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dinodeploy.cli.output import print_json, print_notes, say
from dinodeploy.errors import MisuseError
from dinodeploy.hardware.packages import reach

LAYOUTS = ("hf", "timm", "official")


def convert(
    source: Annotated[Path, Argument(help="A checkpoint file or directory, in any layout.")],
    to: Annotated[str, Option(help="Target layout: hf, timm or official.")],
    out: Annotated[
        Path | None, Option(help="Output path. Default: SOURCE's name and the layout, here.")
    ] = None,
    arch: Annotated[str | None, Option(help="Check the file against this architecture.")] = None,
    rope_periods: Annotated[
        str, Option(help="RoPE periods where the layout has none: bf16 (as released) or fp32.")
    ] = "bf16",
    weights_key: Annotated[
        str | None, Option(help="Which model of the file, by dotted name. Default: EMA if it has one.")
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an existing checkpoint.")] = False,
    as_json: Annotated[bool, Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Convert a checkpoint between the official, Hugging Face and timm layouts."""
    if to not in LAYOUTS:
        raise MisuseError(f"--to {to!r}; wanted one of {', '.join(LAYOUTS)}")
    if rope_periods not in ("bf16", "fp32"):
        raise MisuseError(f"--rope-periods {rope_periods!r}; wanted bf16 or fp32")
    checkpoints = reach("dinov3_ref.checkpoints", "convert")
    target = out or Path(f"{source.stem}-{to}" + (".pth" if to == "official" else ""))
    notes: list[str] = []
    how = {"arch": arch, "periods": rope_periods, "weights_key": weights_key, "log": notes.append}
    files = checkpoints.convert(source, to, target, overwrite=overwrite, **how)
    print_notes(notes)
    if as_json:
        print_json({"out": str(target), "files": [str(file) for file in files], "notes": notes})
        return
    for file in files:
        say(file)
    say(f"next: dinodeploy export --weights {target}")
