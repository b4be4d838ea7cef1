"""Write a head file without torch: the format that `dinov3_ref/heads/files.py` describes and reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinodeploy.bundle.manifest import canonical
from dinodeploy.files.tensorfile import save_tensors

FORMAT = 1
METADATA_KEY = "dinodeploy.head"
OWN_LICENCE = "trained by dinodeploy train-head: whoever owns the pictures says what it is"


@dataclass(frozen=True)
class HeadFile:
    """What a head file holds."""

    kind: str  # linear_classifier | linear_segmenter
    config: Mapping[str, Any]
    tensors: Mapping[str, NDArray[np.float32]]
    classes: Sequence[str]
    backbone_sha256: str
    trained: Mapping[str, Any] = field(default_factory=dict)
    licence: str = OWN_LICENCE

    def write(self, path: Path) -> None:
        """Whole or not at all; the same head gives the same bytes."""
        about = {
            "format": FORMAT,
            "kind": self.kind,
            "config": dict(self.config),
            "classes": list(self.classes),
            "backbone_sha256": self.backbone_sha256,
            "licence": self.licence,
            "trained": json.loads(canonical(dict(self.trained))),
        }
        save_tensors(path, self.tensors, {METADATA_KEY: json.dumps(about, sort_keys=True)})
