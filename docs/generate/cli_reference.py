"""The page on the command line, generated from the commands: arguments, options, defaults, exit codes."""

from __future__ import annotations

import html
import inspect
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer.main

from dinodeploy import errors
from dinodeploy.cli import app as command_line

KINDS = {str: "text", Path: "path", int: "whole number", float: "number", bool: ""}
HEAD = """# Command line

Every command has `--help`, and most have `--json`: the result on stdout, progress and notes on stderr.

## Exit codes
"""


def page() -> str:
    """The whole page as Markdown."""
    lines = [HEAD, *_exit_codes()]
    for command, path in _commands(typer.main.get_command(command_line.make_app()), "dinodeploy"):
        lines += [f"## {path}", "", command.help or "", "", *_parameters(command, path)]
    return "\n".join(lines)


def _exit_codes() -> Iterator[str]:
    """The exit codes in app.py's docstring, and the error tree in errors.py's."""
    yield from ("| code | what |", "|---|---|")
    told = re.findall(r"(\d) ([^·\n]+)", (command_line.__doc__ or "").split("\n", 1)[1])
    stopped = [(128 + number, f"stopped by {number.name}") for number in (signal.SIGINT, signal.SIGTERM)]
    for code, meaning in [*told, *stopped]:
        yield f"| {code} | {meaning.strip()} |"
    tree = (errors.__doc__ or "").split("\n\n")[1]
    yield from ("", "The errors behind codes 1 to 4:", "", tree, "")


def _commands(command: Any, path: str) -> Iterator[tuple[Any, str]]:
    """Every command that can be run, with its full name."""
    if not hasattr(command, "commands"):
        yield command, path
        return
    for name, inner in command.commands.items():
        yield from _commands(inner, f"{path} {name}")


def _parameters(command: Any, path: str) -> Iterator[str]:
    kinds = get_type_hints(inspect.unwrap(command.callback))
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    words = [_word(argument) for argument in arguments]
    needed = [f"{option.opts[0]} {option.name.upper()}" for option in options if option.required]
    yield from ("```sh", " ".join((path, *words, *needed, "[OPTIONS]")), "```", "")
    if arguments:
        rows = [(f"`{_word(one)}`", _takes(one, kinds), _default(one), one.help) for one in arguments]
        yield from _table("argument", rows)
    yield from _table(
        "option", [(_names(one), _takes(one, kinds), _default(one), one.help) for one in options]
    )


_NOT_MARKDOWN = str.maketrans({"|": "&#124;", "[": "&#91;", "]": "&#93;"})  # of tables and links


def _table(first: str, rows: Iterable[tuple[str, str, str, str | None]]) -> Iterator[str]:
    yield from (f"| {first} | takes | default | what |", "|---|---|---|---|")
    for *cells, what in rows:
        yield "| " + " | ".join((*cells, html.escape(what or "").translate(_NOT_MARKDOWN))) + " |"
    yield ""


def _word(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def _takes(parameter: Any, kinds: dict[str, Any]) -> str:
    """The kind of value; empty for a flag."""
    kind = kinds[parameter.name]
    names = [KINDS[one] for one in (kind, *get_args(kind)) if one in KINDS]
    repeatable = list in (get_origin(one) for one in (kind, *get_args(kind)))
    inner = [KINDS[one] for part in get_args(kind) for one in get_args(part) if one in KINDS]
    return (names + inner)[0] + (", repeatable" if repeatable else "")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default in (None, False, [], ()):
        return ""
    return f"`{parameter.default}`"
