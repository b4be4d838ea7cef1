"""The reference in PyTorch: model, checkpoints, training."""

from __future__ import annotations

import os
from typing import Any

# Before huggingface_hub is imported, which reads it then. Source:
# https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`dinov3_ref.load`, a released model by name; torch is imported when it is first used."""
    if name == "load":
        from dinov3_ref.hub import load

        return load
    raise AttributeError(f"module 'dinov3_ref' has no attribute {name!r}")
