"""Import optional packages late: the runtime reaches the exporters only through here."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from dinodeploy.errors import UnavailableError


def reach(module: str, purpose: str, extra: str = "export") -> ModuleType:
    """Import `module`, which needs torch. Raises UnavailableError with what to install."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"{purpose} needs {error.name}, which is not installed: pip install 'dinodeploy[{extra}]'"
        ) from error
