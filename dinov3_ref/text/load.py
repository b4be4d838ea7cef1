"""Load a dino.txt model: a backbone file and a head file as released, or one file (docs/spec.md 5.8).

head file   visual_model.head.*, text_model.*, logit_scale
one file    the same, and visual_model.backbone.*
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from dinov3_ref.checkpoints import Checkpoint, load_checkpoint, random_checkpoint
from dinov3_ref.checkpoints import build_model as build_backbone
from dinov3_ref.checkpoints.files import read_checkpoint
from dinov3_ref.checkpoints.layouts.official import PeriodRounding
from dinov3_ref.checkpoints.synthetic.random import random_tensor
from dinov3_ref.checkpoints.tensor_shapes import check_keys, check_values
from dinov3_ref.checkpoints.unwrap import unwrap
from dinov3_ref.errors import ForeignCheckpoint
from dinov3_ref.models.config import ViTConfig
from dinov3_ref.models.vision_transformer import DinoVisionTransformer
from dinov3_ref.text.config import (
    LOGIT_SCALE,
    TEXT_MODEL,
    VISION_HEAD,
    DinoTxtConfig,
    expected_shapes,
    infer_config,
    released_config,
)
from dinov3_ref.text.dinotxt import DINOTxt, build_dinotxt

BACKBONE = "visual_model.backbone."
LEFT_OUT = "read the backbone only"  # a note that is wrong where the rest is read too


@dataclass(frozen=True, eq=False)  # == of tensors is elementwise
class LoadedDinoTxt:
    """The parts of a dino.txt model and their origin."""

    backbone: Checkpoint
    config: DinoTxtConfig
    state: Mapping[str, Tensor] = field(repr=False)  # the head file's tensors, under their official keys
    source: str  # of these tensors
    sha256: str
    notes: tuple[str, ...] = ()

    @property
    def log_scale(self) -> float:
        """The logarithm of the scale of cosines."""
        return float(self.state[LOGIT_SCALE].float())

    def build(self, dtype: torch.dtype = torch.float32) -> DINOTxt:
        """The model in eval mode; it shares the tensors of the files if `dtype` is theirs."""
        backbone = build_backbone(self.backbone, dtype)
        assert isinstance(backbone, DinoVisionTransformer)
        with torch.device("meta"):
            model = build_dinotxt(backbone, self.config)
        return fill_head(model, self.state, dtype).eval()


def fill_head(model: DINOTxt, state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> DINOTxt:
    """Give a model the tensors of a head file; its backbone stays."""
    own = {name for name in model.state_dict() if not name.startswith(BACKBONE)}
    assert own == set(state), "checked when they were loaded"
    # the plain one: a backbone's own warns of what is missing
    torch.nn.Module.load_state_dict(
        model, {name: tensor.to(dtype) for name, tensor in state.items()}, strict=False, assign=True
    )
    return model


def load_dinotxt(
    weights: str | os.PathLike[str],
    head: Path | None = None,
    *,
    arch: str | None = None,
    periods: PeriodRounding = "bf16",
    adapter: str | Path | None = None,
) -> LoadedDinoTxt:
    """Load `weights` (a backbone in any layout) and the head file `head`; without it `weights` holds both.

    `arch`, `periods` and `adapter` are of the backbone, as in `load_checkpoint`. Raises CheckpointError or a
    subclass: ForeignCheckpoint for the wrong half, and for halves of two models; KeyMismatch for missing,
    extra or misshapen tensors.
    """
    path = Path(weights) if head is None else head
    raw = read_checkpoint(path)
    tensors = unwrap(raw.tree, path.name).backbone
    _check_half(tensors, path.name, whole=head is None)
    if head is None:
        key = BACKBONE.rstrip(".")
        backbone = load_checkpoint(weights, arch=arch, periods=periods, weights_key=key, adapter=adapter)
        notes = tuple(note for note in backbone.notes if not note.startswith(LEFT_OUT))
        backbone = replace(backbone, layout="official", notes=notes)
    else:
        backbone = load_checkpoint(weights, arch=arch, periods=periods, adapter=adapter)
    state = {key: tensor for key, tensor in tensors.items() if not key.startswith(BACKBONE)}
    config = infer_config({key: tuple(tensor.shape) for key, tensor in state.items()}, path.name)
    check_keys(state, expected_shapes(config), path.name)
    check_values(state, path.name)
    check_pair(backbone, config, path.name)
    return LoadedDinoTxt(backbone, config, state, path.name, raw.sha256, backbone.notes)


def check_pair(backbone: Checkpoint, config: DinoTxtConfig, name: str) -> None:
    """Raise ForeignCheckpoint unless the backbone has the tokens that the vision head reads."""
    if not isinstance(backbone.config, ViTConfig):
        raise ForeignCheckpoint(f"{backbone.source} is a ConvNeXt; {name} needs the ViT it was trained on")
    if backbone.config.embed_dim != config.vision_dim:
        raise ForeignCheckpoint(
            f"{name} reads tokens of {config.vision_dim} channels, {backbone.source} gives "
            f"{backbone.config.embed_dim}; give the backbone that the head was trained on"
        )


def _check_half(tensors: Mapping[str, Tensor], name: str, *, whole: bool) -> None:
    """Raise ForeignCheckpoint for a file that is not what was asked for."""

    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in tensors)

    parts = has(VISION_HEAD) and has(TEXT_MODEL)
    if whole and parts and not has(BACKBONE):
        raise ForeignCheckpoint(
            f"{name} is a vision head and text encoder without a backbone; give it as --head, and the "
            "backbone as --weights"
        )
    if not whole and has(BACKBONE):
        raise ForeignCheckpoint(f"{name} holds a backbone too; give it as --weights, without --head")
    if not parts:
        kind = "a backbone" if "cls_token" in tensors else f"{len(tensors)} other tensors"
        wanted = f"{BACKBONE}*, " if whole else ""
        raise ForeignCheckpoint(
            f"{name} holds {kind}; wanted dino.txt's {wanted}{VISION_HEAD}*, {TEXT_MODEL}* and {LOGIT_SCALE}"
        )


def random_dinotxt(
    backbone: ViTConfig | str, config: DinoTxtConfig | None = None, seed: int = 0
) -> LoadedDinoTxt:
    """Random weights in which every tensor has an effect, the same on every machine.

    Default sizes: the released ones, with a vision head as wide as the backbone.
    """
    checkpoint = random_checkpoint(backbone, seed)
    config = config or released_config(checkpoint.config.embed_dim)
    check_pair(checkpoint, config, "the head")
    vit = checkpoint.config
    assert isinstance(vit, ViTConfig)
    state = {key: random_tensor(key, shape, vit, seed) for key, shape in expected_shapes(config).items()}
    digest = hashlib.sha256(f"{checkpoint.sha256}/{config}/{seed}".encode()).hexdigest()
    return LoadedDinoTxt(checkpoint, config, state, f"random:dinotxt:seed{seed}", digest, checkpoint.notes)
