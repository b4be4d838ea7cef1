"""What a manifest says of the backbone inside a whole model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dinodeploy.bundle.manifest import ModelFacts
from dinov3_ref.checkpoints import RawCheckpoint, checkpoint_of
from dinov3_ref.errors import Dinov3Error
from dinov3_ref.models import Backbone, ConvNeXt, DinoVisionTransformer, stride_of
from exporters.modules.whole import tensors_of


def model_facts(
    backbone: Backbone,
    arch: str,
    weights: Literal["file", "memory"],
    source: str,
    sha256: str,
    layout: str,
    dataset: str | None,
) -> ModelFacts:
    """The facts of a backbone and the origin of its weights."""
    has_rope = isinstance(backbone, DinoVisionTransformer)
    return ModelFacts(
        arch=arch,
        embed_dim=backbone.embed_dim,
        depth=backbone.n_blocks,
        num_heads=0 if isinstance(backbone, ConvNeXt) else backbone.num_heads,
        patch_size=stride_of(backbone),
        storage_tokens=backbone.n_storage_tokens,
        weights=weights,
        source=source,
        sha256=sha256,
        layout=layout,
        dataset=dataset,
        rope_periods="fp32" if has_rope else None,
    )


def arch_of(backbone: Backbone) -> str:
    """A key of ARCHITECTURES for a released shape, else "custom"."""
    raw = RawCheckpoint(Path("memory"), backbone.state_dict(), "")
    hints = {} if isinstance(backbone, ConvNeXt) else {"num_heads": backbone.num_heads}
    try:
        return checkpoint_of(raw, "memory", hints=hints).arch
    except Dinov3Error:  # a user's own layers have other tensors
        return "custom"


def sha256_of_tensors(module: nn.Module) -> str:
    """Hash of the names and values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in tensors_of(module).items():
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update((flat if flat.dtype == torch.bool else flat.view(torch.uint8)).numpy().tobytes())
    return digest.hexdigest()
