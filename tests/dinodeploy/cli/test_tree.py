"""The typer application: one command, or all of them in groups."""

from __future__ import annotations

from dinodeploy.cli import COMMANDS
from dinodeploy.cli.tree import build_app


def test_one_command_or_all() -> None:
    assert len(build_app("inspect").registered_commands) == 1
    app = build_app()
    assert len(app.registered_commands) + len(app.registered_groups) == len(COMMANDS)
