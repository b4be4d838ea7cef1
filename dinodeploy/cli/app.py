"""The command line `dinodeploy`: its commands, and how every error becomes one line and an exit code.

0 done · 1 judged and failed · 2 misuse or bad input · 3 export or build failed
4 not possible on this machine · 5 partly done (some images quarantined)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from dinodeploy.cli import COMMANDS as COMMANDS
from dinodeploy.cli import GROUPS as GROUPS
from dinodeploy.hardware import signals

if TYPE_CHECKING:
    import typer


def make_app(command: str | None = None) -> typer.Typer:
    """The command line, with one command (importing all takes longer than a short one) or, for None, all."""
    from dinodeploy.cli.tree import build_app

    return build_app(command)


def main() -> NoReturn:
    """Entry point: run the command and exit with its code."""
    signals.run_program(_main)


def _main() -> int:
    from dinodeploy.cli.output import run_command

    return run_command(_run)


def _run() -> int:
    import os
    import warnings

    from PIL.Image import DecompressionBombWarning

    from dinodeploy.cli.streams import on_terminal

    # images/open.py refuses the images that Pillow warns about
    warnings.filterwarnings("ignore", category=DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of EXIF that is damaged
    if not on_terminal():  # of downloads from the Hugging Face hub
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    code = make_app(asked if asked in COMMANDS else None)(standalone_mode=False)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
