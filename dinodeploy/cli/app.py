"""`dinodeploy`: the commands, and how every error becomes one line and an exit code.

0 done · 1 judged and failed · 2 misuse or bad input · 3 export or build failed
4 this machine can't · 5 done in part (some images quarantined)
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from typing import Annotated, NoReturn

import typer
from PIL.Image import DecompressionBombWarning

from dinodeploy import __version__
from dinodeploy.cli.output import fail
from dinodeploy.errors import reason_of

HELP = "DINOv3 from PyTorch checkpoints to proven engines: never silently wrong."
# In the order of the help page; each is a function, or a group of them, of its module's own name.
COMMANDS = (
    "export", "build", "embed", "index", "search", "dedupe", "visualize", "check", "inspect", "convert",
    "ranges", "bench", "train-head", "add-head", "predict", "serve", "triton", "doctor", "bundle",
)  # fmt: skip
MISUSE, CANNOT, INTERRUPTED = 2, 4, 130


def make_app(command: str | None = None) -> typer.Typer:
    """The command line with one command; importing the others would take longer than a small one runs.

    None: with all of them, as for the help page.
    """
    app = typer.Typer(
        name="dinodeploy",
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(root)
    for name in COMMANDS if command is None else (command,):
        module = import_module(f"dinodeploy.cli.{name.replace('-', '_')}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command()(getattr(module, name.replace("-", "_")))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dinodeploy {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """DINOv3 from PyTorch checkpoints to proven engines: never silently wrong."""


def main() -> NoReturn:
    """Entry point: runs the command and ends the process with its exit code."""
    # Our own pixel cap refuses what Pillow warns about.
    warnings.filterwarnings("ignore", category=DecompressionBombWarning)
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        code = make_app(asked if asked in COMMANDS else None)(standalone_mode=False)
    except BrokenPipeError:
        # Whoever read our output has gone. Nothing more can be said, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        fail(f"{error.filename or 'system'}: {reason_of(error)}; nothing half-written was left", CANNOT)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's usage errors, whichever click typer brings
            fail(error.format_message(), MISUSE)
        if not hasattr(error, "exit_code"):
            raise  # a bug of ours: the traceback is the message
        fail(str(error), error.exit_code)
    if code == INTERRUPTED:  # typer makes this of a KeyboardInterrupt
        fail("interrupted; nothing half-written was left", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
