"""The one place that prints: every command uses it, and every command's words fit every terminal."""

from __future__ import annotations

import ast
import io
from pathlib import Path
from typing import Any

import pytest
import typer.main

from dinodeploy.cli import output
from dinodeploy.cli.app import make_app
from dinodeploy.cli.streams import safe_stream

CLI = Path(output.__file__).parent
PRINTS = ("output.py", "streams.py")


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.stem)
def test_commands_print_through_output_only(path: Path) -> None:
    if path.name in PRINTS:
        return
    forbidden = ("print", "typer.echo", "sys.stdout", "sys.stderr")
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    names = [
        ast.unparse(node.func if isinstance(node, ast.Call) else node)
        for node in nodes
        if isinstance(node, (ast.Call, ast.Attribute))
    ]
    found = [name for name in names if name in forbidden]
    assert found == [], "use say, log, print_json of cli/output.py"


def commands() -> dict[str, Any]:
    """Every command, those of groups too."""
    found = {}
    for name, command in typer.main.get_command(make_app()).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {"": command})
        found.update({f"{name} {inner_name}".strip(): one for inner_name, one in inner.items()})
    return found


COMMANDS = commands()


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("width", [1, 20, 80])
def test_help_of_every_command_fits_every_terminal(name: str, width: int) -> None:
    context = typer.Context(COMMANDS[name], info_name=name, terminal_width=width, max_content_width=width)
    text = COMMANDS[name].get_help(context)
    for encoding in ("ascii", "cp437", "cp1252", "utf-16"):
        raw = io.BytesIO()
        stream = safe_stream(io.TextIOWrapper(raw, encoding))
        stream.write(text)
        stream.flush()
        assert "Usage:" in raw.getvalue().decode(encoding)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_reports_has_json(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    passed_on = name.startswith("evaluate ")  # the evaluation reads its options: test_evaluate.py
    assert "--json" in options or name == "serve" or passed_on


def test_control_characters_do_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    output.say("a\x1b[31m\u202eb\nc")
    output.log("d\x07")
    out, err = capfd.readouterr()
    assert out == "a\\x1b[31m\\u202eb\nc\n"
    assert err == "d\\x07\n"


def test_tables_are_not_cut_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert output.stdout().width == 80
    monkeypatch.setenv("COLUMNS", "120")
    assert output.stdout().width == 120
