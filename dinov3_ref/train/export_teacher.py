"""Write the trained teacher at the end of a run (docs/spec.md 3.1, 3.2, 4.16).

teacher/model.safetensors   the backbone in the official layout, for `dinodeploy export --weights RUN/teacher`
teacher/config.json         the whole model configuration, and mean and std of its images
teacher.pth                 {"teacher": backbone and heads, "config.json": as above}, for later training
                            stages and distillation
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3_ref.atomic import replacing
from dinov3_ref.checkpoints.files import CONFIG, MODEL_CONFIG, write_safetensors
from dinov3_ref.checkpoints.layouts.convnext import repeat_norm
from dinov3_ref.distributed import get_rank, whole
from dinov3_ref.models.build import student_config
from dinov3_ref.train.networks.training_networks import TrainingNetworks

TEACHER = "teacher"  # folder


def export_teacher(networks: TrainingNetworks, folder: Path) -> tuple[Path, Path]:
    """Write the EMA teacher (with distillation: the student's EMA); each file is replaced atomically.

    Returns the paths of the weights: (backbone, backbone and heads). All ranks must call, because sharded
    weights are gathered; rank 0 writes.
    """
    backbone, everything = folder / TEACHER / "model.safetensors", folder / "teacher.pth"
    state = {name: whole(value).cpu() for name, value in networks.model_ema.state_dict().items()}
    if get_rank() != 0:
        return backbone, everything
    backbone.parent.mkdir(exist_ok=True)
    prefix = "backbone."
    own = {name.removeprefix(prefix): v.contiguous() for name, v in state.items() if name.startswith(prefix)}
    with replacing(backbone) as draft:
        write_safetensors(repeat_norm(own), draft)
    described = describe(networks.config)
    text = json.dumps(described, indent=2) + "\n"
    with replacing(backbone.parent / "config.json") as draft:
        draft.write_text(text, encoding="utf-8")
    with replacing(everything) as draft:
        torch.save({"teacher": state, CONFIG: described}, draft)
    return backbone, everything


def describe(config: Any) -> dict[str, Any]:
    """What tensors do not show: all options of the model, and image normalisation in timm's form.

    `load_checkpoint` reads both, so that the reloaded model computes what the teacher computed.
    """
    crops = config.crops
    teacher = replace(student_config(config), drop_path_rate=0.0)
    return {
        "trained_by": "dinov3_ref",
        MODEL_CONFIG: teacher.kwargs(),
        "pretrained_cfg": {"mean": list(crops.rgb_mean), "std": list(crops.rgb_std)},
    }


def whole_backbone(networks: TrainingNetworks) -> dict[str, Tensor]:
    """State dict of the EMA teacher's backbone; sharded tensors are gathered (a collective)."""
    state = networks.model_ema["backbone"].state_dict()
    return {name: whole(value) for name, value in state.items()}
