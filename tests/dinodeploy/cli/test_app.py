"""The root of the command line: its help page."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

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


def test_damaged_exif_is_no_warning(tiny_bundle: Path, tmp_path: Path, run: CommandLine) -> None:
    image = tmp_path / "a.jpg"
    Image.new("RGB", (64, 64)).save(image, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x40\x01\x12")
    ran = run("embed", image, "--engine", tiny_bundle, "--out", tmp_path / "out")
    assert ran.code == 0
    assert "Corrupt" not in ran.err
