"""The command line `dinodeploy`: its commands, and how every error becomes one line and an exit code.

0 done · 1 judged and failed · 2 misuse or bad input · 3 export or build failed
4 not possible on this machine · 5 partly done (some images quarantined)
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from PIL.Image import DecompressionBombWarning
from typer import Option
from typer.core import TyperGroup

from dinodeploy import __version__
from dinodeploy.cli.output import INTERRUPTED, run_command

HELP = "DINOv3 from PyTorch checkpoints to verified engines: export, judge, embed, search, serve."
# In the order of the help page. Each command is a function, or a group of them, in the module of its name.
GROUPS = {
    "Export and verify": ("export", "build", "check", "bench", "ranges", "convert"),
    "Embed and search": ("embed", "index", "search", "dedupe", "visualize"),
    "Heads": ("train-head", "add-head", "predict"),
    "Serve": ("serve", "triton"),
    "Tools": ("inspect", "bundle", "doctor"),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)


class GroupedCommands(TyperGroup):
    """Lists the commands of the help page in groups; typer's own panels need rich markup, which is off."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for title, names in GROUPS.items():
            rows = [
                (name.ljust(width), self.commands[name].get_short_help_str(formatter.width - width - 6))
                for name in names
                if name in self.commands
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def make_app(command: str | None = None) -> typer.Typer:
    """The command line, with one command (importing all takes longer than a short one) or, for None, all."""
    app = typer.Typer(
        name="dinodeploy",
        cls=GroupedCommands,
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
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """DINOv3 from PyTorch checkpoints to verified engines: export, judge, embed, search, serve."""


def main() -> NoReturn:
    """Entry point: run the command and exit with its code."""
    # images/open.py refuses the images that Pillow warns about
    warnings.filterwarnings("ignore", category=DecompressionBombWarning)
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    sys.exit(run_command(lambda: _run(asked if asked in COMMANDS else None)))


def _run(command: str | None) -> int:
    code = make_app(command)(standalone_mode=False)
    if code == INTERRUPTED:  # what typer returns for a KeyboardInterrupt
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
