"""Options that several commands share, defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dinodeploy.cli.output import DEVICE_HELP, REQUIRE_SIGNATURE_HELP

# Of every command that opens a bundle; `open_bundle` and `locate` of `bundle/bundle.py` enforce it.
RequireSignature = Annotated[
    Path | None, Option("--require-signature", help=REQUIRE_SIGNATURE_HELP, metavar="KEY.pub")
]

# Of every command that decodes images; `ImageLimits.of` of `images/limits.py` makes the limits.
MaxPixels = Annotated[
    int | None,
    Option("--max-pixels", help="Maximum pixels per image. Default: 89 million; JPEG 358 million."),
]

# Of commands that read images from every kind of source; `SourceOptions` of `sources/` takes the next three.
Images = Annotated[
    list[str],
    Argument(help="Files, folders, globs, lists, tables, archives, videos, URLs.", metavar="IMAGES..."),
]
Column = Annotated[str | None, Option(help="Table column with images or paths. Default: found by name.")]
IdColumn = Annotated[str | None, Option(help="Table column with ids. Default: paths or row numbers.")]
Every = Annotated[int, Option(help="Take every n-th frame of a video.")]
TimeLimit = Annotated[float, Option(help="Seconds after which an image counts as unreadable.")]

# Of commands that run an engine.
Device = Annotated[str, Option(help=DEVICE_HELP)]
InputSize = Annotated[str | None, Option(help="Input size H or H,W. Default: the bundle's.")]
Batch = Annotated[int, Option(help="Images per batch, at most.")]
Threads = Annotated[int | None, Option(help="CPU threads of the engine. Default: chosen by the runtime.")]
AllowUnverified = Annotated[
    bool, Option("--allow-unverified", help="Use an engine without a passing receipt.")
]

# Of commands that write predictions.
Save = Annotated[
    str | None,
    Option(help="Images to write: maps, overlays, or none. Default: both; of videos, overlays."),
]
OverwritePredictions = Annotated[bool, Option("--overwrite", help="Replace existing predictions.")]
AsJson = Annotated[bool, Option("--json", help="Print the result as JSON on stdout.")]

# Of commands that compare images with labels (dino.txt).
TextEngine = Annotated[
    Path, Option(help="The bundle of a dino.txt model, an engine file inside one, or hf://ORG/NAME.")
]
Templates = Annotated[
    str,
    Option(help="Texts around a label: imagenet (the 80 published), none, or a file with {} per line."),
]
