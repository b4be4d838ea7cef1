"""Several students of one frozen teacher, which is asked once a batch (docs/spec.md 4.17).

    <output>/config.yaml                the whole configuration
    <output>/students/<name>/           what a run alone leaves behind, a folder a student

Upstream gives each student a share of the ranks; here all ranks train all students in turn, so one rank is
enough and every student sees the whole global batch. Each is, number by number, the student of a distillation
run of its own: it shares with the others the pictures and the teacher's targets, nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dinov3_ref.configs import student_configs
from dinov3_ref.distributed import get_rank
from dinov3_ref.train.logging.run_log import CONFIG_FILE
from dinov3_ref.train.loop import Loader, TrainingRun, train_together


def build_runs(config: Any, loader: Loader, device: torch.device | str = "cpu") -> list[TrainingRun]:
    """The runs of a configuration: one, or with `multidistillation` one a student, the teacher's owner first.

    Raises `ConfigError`, `DataError` and `CheckpointError`.
    """
    if not config.multidistillation.enabled:
        return [TrainingRun(config, loader, device)]
    runs: list[TrainingRun] = []
    for name, own in student_configs(config).items():
        runs.append(TrainingRun(own, loader, device, name=name, leader=next(iter(runs), None)))
    return runs


def train(config: Any, loader: Loader, device: torch.device | str = "cpu") -> list[Path]:
    """Train what the configuration describes; the folder of each run.

    Raises what `build_runs` and `train_together` raise.
    """
    runs = build_runs(config, loader, device)
    if config.multidistillation.enabled and get_rank() == 0:
        output = Path(config.train.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, output / CONFIG_FILE)
    train_together(runs)
    return [run.output for run in runs]
