"""The page on Python: a heading a module, under it each public name with signature and docstring.

Names are a module's `__all__`, read without importing it, or those listed here.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

# module -> (what it is for, its names; none listed: all that it exports)
MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "dinodeploy": ("The runtime. Needs no torch.", ()),
    "dinodeploy.batcher": ("Many callers, one engine.", ("Batcher",)),
    "dinodeploy.testing": ("For a project's own tests.", ("assert_parity",)),
    "dinodeploy.search": ("Needs the extra `search`.", ()),
    "exporters.bundle.options": ("What an export may be told.", ("ExportOptions",)),
    "exporters.bundle.export": (
        "From a checkpoint to a judged bundle.",
        ("export_checkpoint", "export_model"),
    ),
    "exporters.heads": ("Heads behind a backbone that is a bundle already.", ("add_head",)),
    "dinov3_ref.checkpoints": ("Checkpoints in every layout.", ()),
    "dinov3_ref.models": ("The reference models, in PyTorch.", ()),
    "dinov3_ref.heads": ("Heads, in PyTorch.", ()),
    "dinov3_ref.ranges": ("How large values get inside.", ("measure_ranges",)),
}


def page() -> str:
    """The whole page: mkdocstrings puts signature and docstring where `:::` names them."""
    lines = ["# Python"]
    for module, (purpose, listed) in MODULES.items():
        lines += ["", f"## {module}", "", purpose]
        for name in listed or exported(module):
            lines += ["", f"::: {module}.{name}"]
    return "\n".join(lines) + "\n"


def exported(module: str) -> tuple[str, ...]:
    """`__all__` of a package. Raises LookupError where it has none."""
    source = ROOT.joinpath(*module.split("."), "__init__.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return tuple(ast.literal_eval(statement.value))
    raise LookupError(f"{module} has no __all__")
