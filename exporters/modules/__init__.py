"""Export whole models: any module with DINOv3 backbones inside becomes a judged bundle.

module ─> copy with our backbones (swap) ─> meta copy, traced ─> graph ─> recipe ─> lint ─> files ─> judge
   └─> golden outputs of the untouched module, in fp32, on photographs of several sizes ──────────────┘
"""

from __future__ import annotations

from exporters.modules.export import ModuleOptions, export_task

__all__ = ["ModuleOptions", "export_task"]
