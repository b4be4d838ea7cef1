"""The root of the command line: its help page."""

from __future__ import annotations

import re

from dinodeploy.cli.app import COMMANDS, GROUPS
from tests.support.processes.command_line import CommandLine


def test_help_lists_every_command_in_its_group(run: CommandLine) -> None:
    ran = run("--help")
    assert ran.code == 0
    found: dict[str, list[str]] = {}
    for line in ran.out.splitlines():
        if heading := re.fullmatch(r"(\w[\w ]+):", line):
            found[heading[1]] = []
        elif command := re.match(r"  ([a-z-]+)  +\w", line):
            list(found.values())[-1].append(command[1])
    del found["Options"]
    assert {title: tuple(names) for title, names in found.items()} == GROUPS


def test_each_command_is_in_one_group() -> None:
    assert len(set(COMMANDS)) == len(COMMANDS)
