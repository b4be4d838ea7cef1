"""Export steps: turn a model into a bundle."""

from typing import Any

import dinodeploy as dinodeploy  # turns off telemetry before a package that reports is imported

__all__ = ["export_module"]


def __getattr__(name: str) -> Any:
    """`exporters.export_module`: any torch module with DINOv3 inside. Imports torch when it is first used."""
    if name == "export_module":
        from exporters.modules import export_module

        return export_module
    raise AttributeError(f"module 'exporters' has no attribute {name!r}")
