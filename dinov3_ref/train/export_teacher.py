"""What a run leaves behind: its teacher, for others to use (docs/spec.md 3.1, 3.2, 4.16).

teacher/model.safetensors   the backbone in the official layout, for `dinodeploy export --weights RUN/teacher`
teacher/config.json         how its pictures are normalised, where a loader looks for it
teacher.pth                 {"teacher": backbone and heads}, for later stages and distillation
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dinov3_ref.checkpoints.layouts.convnext import repeat_norm
from dinov3_ref.distributed import get_rank, whole
from dinov3_ref.train.networks.training_networks import TrainingNetworks

TEACHER = "teacher"  # the folder


def export_teacher(networks: TrainingNetworks, folder: Path) -> tuple[Path, Path]:
    """Write the files, each whole or not at all; under distillation they hold the student's mean.

    Returns where the weights lie: (backbone, backbone and heads). Sharded weights are gathered: all ranks
    must call, rank 0 writes.
    """
    backbone, everything = folder / TEACHER / "model.safetensors", folder / "teacher.pth"
    state = {name: whole(value).cpu() for name, value in networks.model_ema.state_dict().items()}
    if get_rank() != 0:
        return backbone, everything
    backbone.parent.mkdir(exist_ok=True)
    official = repeat_norm({name: value.contiguous() for name, value in _of_backbone(state).items()})
    _replace(backbone, lambda path: save_file(official, path))
    words = json.dumps(describe(networks.config), indent=2) + "\n"
    _replace(backbone.parent / "config.json", lambda path: path.write_text(words, encoding="utf-8"))
    _replace(everything, lambda path: torch.save({"teacher": state}, path))
    return backbone, everything


def describe(config: Any) -> dict[str, Any]:
    """What the weights' tensors do not tell, in the form of timm's config.json (`checkpoints/dataset.py`)."""
    crops = config.crops
    return {
        "trained_by": "dinov3_ref",
        "pretrained_cfg": {"mean": list(crops.rgb_mean), "std": list(crops.rgb_std)},
    }


def whole_backbone(networks: TrainingNetworks) -> dict[str, Tensor]:
    """The EMA teacher's backbone, gathered where it is sharded (a collective), by its official names."""
    state = networks.model_ema["backbone"].state_dict()
    return {name: whole(value) for name, value in state.items()}


def _of_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "backbone."
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    partial.replace(path)
