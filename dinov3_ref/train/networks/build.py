"""Build student and teachers from a configuration (docs/spec.md 4.2).

A student or teacher is a ModuleDict of backbone, dino_head and ibot_head; a Gram teacher has only a backbone.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from dinov3_ref.configs import load_config
from dinov3_ref.configs.checks import check_global_crops
from dinov3_ref.errors import ConfigError
from dinov3_ref.layers import DINOHead
from dinov3_ref.models import build_model_from_cfg
from dinov3_ref.models.released import CONVNEXTS

Device = torch.device | str | None


def build_student_and_teacher(config: Any, device: Device = None) -> tuple[nn.ModuleDict, nn.ModuleDict, int]:
    """Return (student, frozen EMA teacher, embed_dim). The two do not have equal weights yet.

    Raises `ConfigError` for a ConvNeXt without distillation: it has no mask token, so it cannot learn to
    predict masked patches.
    """
    if config.student.arch in CONVNEXTS and not config.distillation.enabled:
        raise ConfigError(
            f"student.arch is {config.student.arch!r}, which has no mask token: it can only be distilled "
            "from a frozen teacher; wanted distillation.enabled=true (recipe distillation_convnext) or a ViT"
        )
    student, teacher, embed_dim = build_model_from_cfg(config, device=device)
    student, teacher = (_with_heads(backbone, config, device) for backbone in (student, teacher))
    return student, freeze(teacher), embed_dim


def build_gram_teacher(config: Any, device: Device = None) -> nn.ModuleDict:
    """A frozen backbone without heads."""
    backbone, _ = build_model_from_cfg(config, only_teacher=True, device=device)
    return freeze(nn.ModuleDict({"backbone": backbone}))


def distillation_teacher_config(config: Any) -> Any:
    """The configuration that the frozen teacher was trained with.

    Raises `ConfigError` if its patch size or number of prototypes differs from the student's, whose outputs
    are compared to it one by one; and for crops that a ConvNeXt teacher's stride does not divide.
    """
    teacher_config = load_config(config.distillation.full_cfg_path)
    for key in ("student.patch_size", "dino.head_n_prototypes", "ibot.head_n_prototypes"):
        ours, theirs = (OmegaConf.select(each, key) for each in (config, teacher_config))
        if ours != theirs:
            raise ConfigError(
                f"{key} is {ours}, the distillation teacher's is {theirs}; set it to {theirs}: the student "
                "learns the teacher's prototype scores"
            )
    check_global_crops(config.crops, teacher_config.student.arch, "the distillation teacher")
    return teacher_config


def build_distillation_teacher(teacher_config: Any, device: Device = None) -> nn.ModuleDict:
    """The frozen teacher, backbone and heads as in its own configuration."""
    backbone, _ = build_model_from_cfg(teacher_config, only_teacher=True, device=device)
    return freeze(_with_heads(backbone, teacher_config, device))


def freeze(modules: nn.ModuleDict) -> nn.ModuleDict:
    """Turn gradients off and set evaluation mode."""
    return modules.requires_grad_(False).eval()


def _with_heads(backbone: Any, config: Any, device: Device) -> nn.ModuleDict:
    with torch.device(device) if device is not None else nullcontext():
        heads = {
            f"{kind}_head": DINOHead(
                in_dim=backbone.embed_dim,
                out_dim=config[kind].head_n_prototypes,
                nlayers=config[kind].head_nlayers,
                hidden_dim=config[kind].head_hidden_dim,
                bottleneck_dim=config[kind].head_bottleneck_dim,
            )
            for kind in ("dino", "ibot")
        }
    return nn.ModuleDict({"backbone": backbone, **heads})
