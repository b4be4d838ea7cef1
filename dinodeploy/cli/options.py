"""Options that several commands share, defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from dinodeploy.cli.output import REQUIRE_SIGNATURE_HELP

# Of every command that opens a bundle; `open_bundle` and `locate` of `bundle/bundle.py` enforce it.
RequireSignature = Annotated[
    Path | None, Option("--require-signature", help=REQUIRE_SIGNATURE_HELP, metavar="KEY.pub")
]

# Of every command that decodes images; `ImageLimits.of` of `images/limits.py` makes the limits.
MaxPixels = Annotated[
    int | None,
    Option("--max-pixels", help="Maximum pixels per image. Default: 89 million; JPEG 358 million."),
]
