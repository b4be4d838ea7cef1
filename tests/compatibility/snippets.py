"""What the seed document's snippets stand on in tests: small models, seeded numbers, a machine without CUDA.

Each test holds one item's words, with `dinov3` read as `dinov3_ref`. `SMALL` stands where the document writes
`...`; where it names a big model, a narrow one of the same kind runs. docs/spec.md 8.1 says where the
document and
the published code differ; then the test's docstring says what holds here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dinov3_ref import models

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2}

# What the document calls vit_base, twelve times narrower.
vit_base = partial(models.vit_base, embed_dim=64, depth=2, num_heads=1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
