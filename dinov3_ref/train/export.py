"""What a run leaves behind: its teacher, for others to use (SPEC 3.1, 4.16).

teacher.safetensors   the backbone in the official layout, for `dinodeploy export --weights`
teacher.pth           {"teacher": backbone and heads}, for later stages and distillation
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dinov3_ref.distributed import get_rank, whole
from dinov3_ref.train.networks import TrainingNetworks


def export_teacher(networks: TrainingNetworks, folder: Path) -> tuple[Path, Path]:
    """Write both files, whole or not at all; under distillation they hold the student's mean.

    Sharded weights are gathered: all ranks must call, rank 0 writes.
    """
    backbone, everything = folder / "teacher.safetensors", folder / "teacher.pth"
    state = {name: whole(value).cpu() for name, value in networks.model_ema.state_dict().items()}
    if get_rank() != 0:
        return backbone, everything
    official = {name: value.contiguous() for name, value in _of_backbone(state).items()}
    for path, write in (
        (backbone, lambda target: save_file(official, target)),
        (everything, lambda target: torch.save({"teacher": state}, target)),
    ):
        partial = path.with_name(f".{path.name}.partial")
        write(partial)
        partial.replace(path)
    return backbone, everything


def whole_backbone(networks: TrainingNetworks) -> dict[str, Tensor]:
    """The EMA teacher's backbone, gathered where it is sharded (a collective), by its official names."""
    state = networks.model_ema["backbone"].state_dict()
    return {name: whole(value) for name, value in state.items()}


def _of_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "backbone."
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
