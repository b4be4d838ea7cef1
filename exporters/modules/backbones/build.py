"""Our backbone with the tensors of another library's model in memory, through the checkpoint converters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dinodeploy.errors import ExportError
from dinov3_ref.checkpoints import RawCheckpoint, build_model, checkpoint_of
from dinov3_ref.checkpoints.layouts.official import PERIODS
from dinov3_ref.errors import Dinov3Error
from dinov3_ref.models import Backbone
from dinov3_ref.models.config import ViTConfig

CONFIG = "config.json"


def build_backbone(
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    config: Mapping[str, Any] | None = None,
    periods: Tensor | None = None,
    hints: Mapping[str, Any] | None = None,
) -> Backbone:
    """Our model of `tensors`, which have a library's names; `where` names the module in messages.

    config: of transformers. periods: those that the library's RoPE has in memory. Raises ExportError for
    tensors that are not a DINOv3 backbone's.
    """
    detached = {name: tensor.detach() for name, tensor in tensors.items()}
    raw = RawCheckpoint(Path(where), detached, "", {CONFIG: dict(config)} if config else {})
    try:
        checkpoint = checkpoint_of(raw, where, periods="fp32", hints=hints)
    except Dinov3Error as error:
        raise ExportError(f"{where} looks like a DINOv3 backbone, but: {error}") from error
    if isinstance(checkpoint.config, ViTConfig):
        checkpoint = replace(checkpoint, config=replace(checkpoint.config, pos_embed_rope_dtype="fp32"))
    if periods is not None:
        checkpoint = replace(checkpoint, state={**checkpoint.state, PERIODS: periods.float()})
    return build_model(checkpoint).requires_grad_(False)
