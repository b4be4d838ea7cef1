"""A griffe extension: docstrings as Markdown. Parameters (`name: text`) become list items, `<` is escaped.

zensical.toml names it; `docs/generate` puts this folder on the path of the build.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ITEM = re.compile(r"^([a-z_][\w, ]*): (?=\S)")


class MarkdownDocstrings(griffe.Extension):
    """Rewrites each docstring when griffe meets its function, class, module or attribute."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """Lines `name: text` as list items; `<` of `layer_<i>` outside code is not HTML."""
    lines: list[str] = []
    for line in docstring.splitlines():
        found = ITEM.match(line)
        if found:
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            if lines and not lines[-1].startswith(("- ", "  ")):
                lines.append("")
            lines.append(f"- {names}: {line[found.end() :]}")
        else:
            lines.append(line)
    parts = re.split(r"(`[^`]*`)", "\n".join(lines))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)
