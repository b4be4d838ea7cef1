"""The page on Python: one heading per module, with the signature and docstring of each public name.

The names are the module's `__all__`, read without importing it, or those listed here.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

# module -> (purpose, names; empty: its whole __all__)
MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "dinodeploy": ("The Python API and the runtime. Only `export` needs PyTorch.", ()),
    "dinodeploy.batcher": ("Many callers, one engine.", ("Batcher",)),
    "dinodeploy.testing": ("For your own tests.", ("assert_parity",)),
    "dinodeploy.search": ("Needs the extra `search`.", ()),
    "exporters.bundle.options": ("Options of an export.", ("ExportOptions",)),
    "exporters.bundle.export": (
        "From a checkpoint to a judged bundle.",
        ("export_checkpoint", "export_model"),
    ),
    "exporters.heads": ("Append a head to a bundle.", ("add_head",)),
    "dinov3_ref.checkpoints": ("Checkpoints in every layout.", ()),
    "dinov3_ref.models": ("The reference models, in PyTorch.", ()),
    "dinov3_ref.heads": ("Heads, in PyTorch.", ()),
    "dinov3_ref.ranges": ("How large values get inside a model.", ("measure_ranges",)),
}


def page() -> str:
    """The whole page. mkdocstrings replaces each `:::` line by signature and docstring."""
    lines = ["# Python"]
    for module, (purpose, listed) in MODULES.items():
        lines += ["", f"## {module}", "", purpose]
        for name in listed or exported(module):
            lines += ["", f"::: {module}.{name}"]
    return "\n".join(lines) + "\n"


def exported(module: str) -> tuple[str, ...]:
    """`__all__` of a package. Raises LookupError if it has none."""
    source = ROOT.joinpath(*module.split("."), "__init__.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return tuple(ast.literal_eval(statement.value))
    raise LookupError(f"{module} has no __all__")
