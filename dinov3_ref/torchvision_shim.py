"""Import torchvision even if its compiled operators do not load.

During its import, torchvision registers fake kernels for `nms` and `qnms`, which its compiled library should
have defined. If that library does not load (a CPU-only torch with a wheel from another index, a newer torch),
the import fails with "operator torchvision::nms does not exist". Only torchvision's transforms are used here,
and they need neither operator, so defining the two schemas is enough. timm.data and transformers' image
processors import torchvision themselves: call `import_torchvision()` before importing them.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

# These are torchvision's schemas: its fake kernels attach to exactly these names.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

# Keep the libraries alive: garbage collection of a library removes its definitions.
_libraries: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import and return torchvision, defining the two schemas if they are missing.

    Raises ModuleNotFoundError if torchvision is not installed.
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
