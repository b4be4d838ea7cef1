"""The published configuration files, as groups of values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data/official_configs.json").read_text()
)


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all that are not groups."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def published(*names: str) -> dict[str, Any]:
    """The acting values of files of the official code, the later before the earlier, by dotted name."""
    found: dict[str, Any] = {}
    for name in names:
        found |= dict(leaves(FILES[name]))
    return found
