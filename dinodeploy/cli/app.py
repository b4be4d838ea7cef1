"""`dinodeploy`: the commands, and how every error becomes one line and an exit code.

0 done · 1 judged and failed · 2 misuse or bad input · 3 export or build failed
4 this machine can't · 5 done in part (some images quarantined)
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer
from PIL.Image import DecompressionBombWarning

from dinodeploy import __version__
from dinodeploy.cli import bundle
from dinodeploy.cli.add_head import add_head
from dinodeploy.cli.bench import bench
from dinodeploy.cli.build import build
from dinodeploy.cli.check import check
from dinodeploy.cli.convert import convert
from dinodeploy.cli.dedupe import dedupe
from dinodeploy.cli.doctor import doctor
from dinodeploy.cli.embed import embed
from dinodeploy.cli.export import export
from dinodeploy.cli.index import index
from dinodeploy.cli.inspect import inspect
from dinodeploy.cli.output import fail
from dinodeploy.cli.predict import predict
from dinodeploy.cli.ranges import ranges
from dinodeploy.cli.search import search
from dinodeploy.cli.serve import serve
from dinodeploy.cli.train_head import train_head
from dinodeploy.cli.triton import triton
from dinodeploy.cli.visualize import visualize

app = typer.Typer(
    name="dinodeploy",
    help="DINOv3 from PyTorch checkpoints to proven engines: never silently wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    export, build, embed, index, search, dedupe, visualize, check, inspect, convert, ranges, bench,
    train_head, add_head, predict, serve, triton, doctor,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
app.add_typer(bundle.app, name="bundle")

MISUSE, CANNOT, INTERRUPTED = 2, 4, 130


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dinodeploy {__version__}")
        raise typer.Exit


@app.callback()
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
    try:
        code = app(standalone_mode=False)
    except BrokenPipeError:
        # Whoever read our output has gone. Nothing more can be said, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        fail(f"{error.filename or 'system'}: {reason}; nothing half-written was left", CANNOT)
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
