"""Export whole models: any module with DINOv3 backbones inside becomes a judged bundle.

module ─> copy with our backbones (swap) ─> meta copy, traced ─> graph ─> recipe ─> lint ─> files ─> judge
   └─> golden outputs of the untouched module, in fp32, on photographs of several sizes ──────────────┘
"""

from __future__ import annotations

from exporters.modules.export import export_task
from exporters.modules.export_module import export_module, module_from_factory

__all__ = ["export_module", "export_task", "module_from_factory"]
