"""Small models and seeded numbers for the snippets of the original document (docs/development/seed.md).

Each test runs one item of the document as written, with `dinov3` read as `dinov3_ref`. `SMALL` replaces the
document's `...`, and small models replace large ones. Where the document and the published code differ
(docs/spec.md 8.1), the test's docstring tells what this package does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dinov3_ref import models

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}

# The document's vit_base with a twelfth of its embed_dim.
vit_base = partial(models.vit_base, embed_dim=64, depth=2, num_heads=1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
