"""Find the DINOv3 backbones in a module, and put ours in their place in a copy of it."""

from __future__ import annotations

from exporters.modules.backbones.swap import Found, swap

__all__ = ["Found", "swap"]
