"""The commands as one typer application, with the help page in groups."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup

from dinodeploy import __version__
from dinodeploy.cli import COMMANDS, GROUPS, HELP
from dinodeploy.cli.output import say


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


def build_app(command: str | None = None) -> typer.Typer:
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
        say(f"dinodeploy {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """DINOv3 from PyTorch checkpoints to verified engines: export, judge, embed, search, serve."""
