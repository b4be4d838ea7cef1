"""Reach the packages that need torch, from commands that need them: the only way across the wall."""

from __future__ import annotations

from types import ModuleType

from dinodeploy.cli.imports import import_quickly
from dinodeploy.errors import UnavailableError


def reach(module: str, purpose: str) -> ModuleType:
    """Import `module`. Raises UnavailableError with the command that installs what is missing."""
    try:
        return import_quickly(module)
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{purpose} needs {error.name}, which is not installed: pip install 'dinodeploy[export]'"
        ) from error
