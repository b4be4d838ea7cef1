"""As much of typer as our commands use, on argparse: for `model.pyz`, where typer cannot go along.

Commands are functions whose parameters say what they are (`Annotated[type, Argument(...) | Option(...)]`).
Types are bool, int, float, str, Path, each of them or None, and lists. It reads those, builds parsers, and
calls the function; what a command prints, raises and returns is the same as under typer.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Exit(Exception):  # typer's name
    """Ends a command with an exit code."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(code)
        self.code = code


class UsageError(Exception):
    """What the user typed does not parse; `dinodeploy.cli.app` prints it on one line."""

    def format_message(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Parameter:
    """What `Argument` and `Option` say of one parameter."""

    names: tuple[str, ...]
    is_argument: bool
    help: str = ""
    metavar: str | None = None
    callback: Callable[[Any], Any] | None = None
    envvar: str | None = None


def Argument(*names: str, help: str = "", metavar: str | None = None, **_: Any) -> Any:
    return Parameter(names, True, help, metavar)


def Option(
    *names: str,
    help: str = "",
    metavar: str | None = None,
    callback: Callable[[Any], Any] | None = None,
    envvar: str | None = None,
    **_: Any,
) -> Any:
    return Parameter(names, False, help, metavar, callback, envvar)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


class Typer:
    """A group of commands."""

    def __init__(self, name: str | None = None, help: str = "", **_: Any) -> None:
        self.name = name
        self.help = help
        self.commands: dict[str, Callable[..., Any]] = {}
        self.groups: dict[str, Typer] = {}
        self.root: Callable[..., Any] | None = None

    def command(self, name: str | None = None, **_: Any) -> Callable[[Any], Any]:
        def register(function: Any) -> Any:
            self.commands[name or function.__name__.replace("_", "-")] = function
            return function

        return register

    def callback(self, **_: Any) -> Callable[[Any], Any]:
        def register(function: Any) -> Any:
            self.root = function
            return function

        return register

    def add_typer(self, group: Typer, name: str | None = None, **_: Any) -> None:
        self.groups[name or group.name or ""] = group

    def __call__(self, *, standalone_mode: bool = False) -> int:
        parser = _Parser(prog=os.path.basename(sys.argv[0]), description=self.help, allow_abbrev=False)  # noqa: PTH119
        self._add_to(parser)
        values = vars(parser.parse_args(sys.argv[1:]))
        for callback, name in _callbacks(self.root):
            try:
                callback(values.pop(name))
            except Exit as leave:
                return leave.code
        function = values.pop("_function", None)
        if function is None:
            parser.print_help()
            return 2
        try:
            function(**values)
        except Exit as leave:
            return leave.code
        return 0

    def _add_to(self, parser: argparse.ArgumentParser) -> None:
        if self.root is not None:
            _add_parameters(parser, self.root)
        below = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
        for name, function in self.commands.items():
            words = inspect.getdoc(function) or ""
            inner = below.add_parser(name, help=words.split("\n")[0], description=words, allow_abbrev=False)
            _add_parameters(inner, function)
            inner.set_defaults(_function=function)
        for name, group in self.groups.items():
            inner = below.add_parser(name, help=group.help, description=group.help, allow_abbrev=False)
            group._add_to(inner)


def _callbacks(root: Callable[..., Any] | None) -> list[tuple[Callable[[Any], Any], str]]:
    found = [(spec.callback, name) for name, spec, _, _ in _parameters(root)] if root else []
    return [(callback, name) for callback, name in found if callback is not None]


def _parameters(function: Callable[..., Any]) -> list[tuple[str, Parameter, Any, Any]]:
    """(name, what it is, type, default) of each parameter of a command."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind, spec = typing.get_args(hints[name])[:2]
        found.append((name, spec, kind, parameter.default))
    return found


def _add_parameters(parser: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    for name, spec, kind, default in _parameters(function):
        is_list, inner = _read_type(kind)
        required = default is inspect.Parameter.empty
        settings: dict[str, Any] = {"help": spec.help.replace("%", "%%")}
        if spec.is_argument:
            many = ("+" if required else "*") if is_list else (None if required else "?")
            metavar = (spec.metavar or name.upper()).removesuffix("...")
            settings |= {"type": inner, "metavar": metavar, "nargs": many}
            parser.add_argument(name, **settings, **({} if required else {"default": default}))
            continue
        if spec.envvar and spec.envvar in os.environ:
            default, required = os.environ[spec.envvar], False
        flags = [part for text in spec.names for part in text.split("/")] or [f"--{name.replace('_', '-')}"]
        settings |= {"dest": name, "required": required, "default": None if required else default}
        if inner is bool:
            parser.add_argument(*flags, **settings, action="store_true")
        else:
            action = "append" if is_list else "store"
            parser.add_argument(*flags, **settings, type=inner, action=action, metavar=spec.metavar)


def _read_type(kind: Any) -> tuple[bool, Any]:
    """(whether it is a list, the type of one value) of `T`, `T | None`, `list[T]`, `list[T] | None`."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        (kind,) = (one for one in typing.get_args(kind) if one is not type(None))
    if typing.get_origin(kind) is list:
        return True, typing.get_args(kind)[0]
    return False, kind
