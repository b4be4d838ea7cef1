"""Load the weights that training starts from: a backbone in any layout, or backbone and heads of a run.

Source: docs/spec.md 4.2, 4.16. Released files have no heads (facebookresearch/dinov3 #23, #207).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dinov3_ref.checkpoints import load_checkpoint
from dinov3_ref.checkpoints.check_tensors import check_keys, check_values
from dinov3_ref.checkpoints.files import read_checkpoint
from dinov3_ref.errors import CheckpointError


def load_backbone(backbone: nn.Module, path: str | Path) -> None:
    """Copy the backbone of a checkpoint file into `backbone`; all tensors must match.

    Reads official, Hugging Face and timm layouts, and teachers of training runs. Raises `CheckpointError`.
    """
    _copy_into(backbone, load_checkpoint(path).state, str(path))


def load_teacher(modules: nn.ModuleDict, path: str | Path) -> None:
    """Copy a `teacher.pth` ({"teacher": backbone and heads}) into `modules`; all tensors must match.

    Raises `KeyMismatch` for a file without heads, `CheckpointError` for other files.
    """
    tree = read_checkpoint(Path(path)).tree
    teacher = tree.get("teacher")
    if not isinstance(teacher, Mapping):
        raise CheckpointError(
            f"{path} has no entry 'teacher'; wanted the teacher.pth of a training run, with heads "
            "(for a backbone without heads use student.pretrained_weights)"
        )
    tensors = {key: value for key, value in teacher.items() if isinstance(value, Tensor)}
    _copy_into(modules, tensors, str(path))


@torch.no_grad()
def _copy_into(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    own = module.state_dict()
    check_keys(tensors, {key: tuple(value.shape) for key, value in own.items()}, name)
    check_values(tensors, name)
    for key, value in own.items():
        value.copy_(tensors[key])
