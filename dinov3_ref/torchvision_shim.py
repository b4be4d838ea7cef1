"""Import torchvision beside a torch build that lacks its compiled operators.

torchvision registers fake kernels for `nms` and `qnms` while it is imported, and expects its compiled
library to have defined both. Where that library does not load (a CPU-only torch beside a wheel from
another index, a torch one release ahead), the import fails with "operator torchvision::nms does not
exist". We use torchvision's transforms alone, and they need neither operator: it is enough to define
the two schemas. timm.data and transformers' image processors import torchvision on their own, so call
`import_torchvision()` before them.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

# Overload names and argument names are torchvision's own; its fake kernels attach to exactly these.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

# A library takes its definitions with it when it is collected, so the module keeps those it made.
_libraries: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Return torchvision, with its two missing schemas defined first where they are missing.

    Harmless where torchvision imports as it is: then nothing is defined. Raises ModuleNotFoundError
    if torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name, schema in _SCHEMAS.items():
        if not _is_defined(name):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(schema)
            _libraries.append(library)
    return importlib.import_module("torchvision")


def _is_defined(name: str) -> bool:
    """Whether torch's dispatcher knows `torchvision::name`."""
    return hasattr(torch.ops.torchvision, name)
