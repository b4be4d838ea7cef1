"""Build a model from a training configuration, with or without a checkpoint (docs/spec.md 1.3)."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dinov3_ref.errors import ArchMismatch, ConfigError
from dinov3_ref.models.backbone import Backbone
from dinov3_ref.models.config import ConvNeXtConfig, ModelConfig, ViTConfig
from dinov3_ref.models.convnext import ConvNeXt
from dinov3_ref.models.released import ARCHITECTURES, CONVNEXTS
from dinov3_ref.models.vision_transformer import DinoVisionTransformer, constructor_shape

# Options for which None means the architecture's own; the first two are the sizes of each family.
VIT_SIZES = ("embed_dim", "depth", "num_heads")
CONVNEXT_SIZES = ("depths", "dims")
ARCH_DECIDES = (*VIT_SIZES, "ffn_layer", "ffn_ratio")
# Options of the student that name the source of its weights.
NOT_OF_THE_MODEL = ("pretrained_weights", "resume_from_teacher_chkpt", "fp8_enabled")


def student_config(config: Any) -> ModelConfig:
    """The architecture of the student that `config` describes; `build_model` builds it.

    For a ConvNeXt the configuration sets sizes, `in_chans` and `patch_size`; in the official code only
    `patch_size` (docs/spec.md 1.4). Drop path is off in both. Raises `ConfigError` for an unknown
    `student.arch`, and for sizes of the other family.
    """
    options = {name: value for name, value in dict(config.student).items() if name not in NOT_OF_THE_MODEL}
    arch = options.pop("arch")
    if arch not in ARCHITECTURES:
        raise ConfigError(f"student.arch is {arch!r}; known: {', '.join(ARCHITECTURES)}")
    own, foreign = (CONVNEXT_SIZES, VIT_SIZES) if arch in CONVNEXTS else (VIT_SIZES, CONVNEXT_SIZES)
    if given := [name for name in foreign if options.pop(name) is not None]:
        raise ConfigError(
            f"student.{given[0]} is {config.student[given[0]]}, which {arch} does not have; wanted null "
            f"there: its sizes are {', '.join(f'student.{name}' for name in own)}"
        )
    if arch in CONVNEXTS:
        sizes = {name: options[name] for name in own if options[name] is not None}
        shape = {"in_chans": options["in_chans"], "patch_size": options["patch_size"]}
        return replace(CONVNEXTS[arch], **sizes, **shape)
    left_to_arch = [name for name in ARCH_DECIDES if options[name] is None]
    chosen: dict[str, Any] = {name: value for name, value in options.items() if name not in left_to_arch}
    chosen["layerscale_init"] = chosen.pop("layerscale")  # the official configuration's shorter name
    crops = config.crops.global_crops_size  # an integer, or a list of them
    chosen["img_size"] = crops if isinstance(crops, int) else crops[0]
    return ViTConfig(**{**constructor_shape(arch), **chosen})


def build_model(config: Any, *, device: torch.device | str | None = None) -> Backbone:
    """The freshly initialised student of `config`. Raises what `student_config` raises."""
    described = student_config(config)
    kind = ConvNeXt if isinstance(described, ConvNeXtConfig) else DinoVisionTransformer
    return kind(**described.kwargs(), device=device)


def build_model_from_cfg(
    config: Any, *, only_teacher: bool = False, device: torch.device | str | None = None
) -> tuple[Any, ...]:
    """(student, teacher, embed_dim), both freshly initialised; (teacher, embed_dim) with `only_teacher`.

    The teacher has no drop path (docs/spec.md 4.2).
    """
    without_drop_path = copy.deepcopy(config)
    without_drop_path.student.drop_path_rate = 0.0
    teacher = build_model(without_drop_path, device=device)
    if only_teacher:
        return teacher, teacher.embed_dim
    return build_model(config, device=device), teacher, teacher.embed_dim


def build_model_for_eval(
    config: Any, pretrained_weights: str | Path | None, shard_unsharded_model: bool = False
) -> Backbone:
    """The model in eval mode, with the weights of a checkpoint in any layout (`checkpoints/`).

    The checkpoint decides the architecture's details, whether or not `config` mentions them: a released file
    has storage tokens, LayerScale and LayerNorm eps 1e-5, and without them features are silently wrong
    (docs/spec.md 8.1). Only `config.student.arch` and `patch_size` are checked against it. With
    `pretrained_weights` None the weights are random. Raises `ArchMismatch` for a contradiction,
    `CheckpointError` for a bad file, `ConfigError` for `shard_unsharded_model`.
    """
    if shard_unsharded_model:
        raise ConfigError(
            "shard_unsharded_model=True needs distributed training; pass False to load on one device"
        )
    if pretrained_weights is None:
        return build_model(config).eval()
    from dinov3_ref.checkpoints import build_model as build_from_checkpoint
    from dinov3_ref.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(pretrained_weights, arch=config.student.arch)
    if isinstance(checkpoint.config, ConvNeXtConfig):  # no tensor depends on its patch size
        own = replace(checkpoint.config, patch_size=config.student.patch_size)
        return build_from_checkpoint(replace(checkpoint, config=own))
    if checkpoint.config.patch_size != config.student.patch_size:
        raise ArchMismatch(
            f"{pretrained_weights} has patch size {checkpoint.config.patch_size}, "
            f"config.student.patch_size is {config.student.patch_size}; set it to the file's"
        )
    return build_from_checkpoint(checkpoint)
