"""The default configuration: official keys and values, without keys that the official code never reads.

Source: docs/spec.md 4.1. An OmegaConf structured config: `config.student.arch = "vit_base"` works, a misspelt
key is an error.
"""
# ruff: noqa: UP045  (OmegaConf evaluates these annotations, on 3.10 too)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import OmegaConf

from dinov3_ref.configs.losses import Dino, Distillation, Gram, Ibot, Teacher
from dinov3_ref.configs.model import Crops, Student
from dinov3_ref.configs.students import MultiDistillation
from dinov3_ref.configs.training import Checkpointing, ComputePrecision, Evaluation, Optim, Schedules, Train


@dataclass
class Config:
    """Root of the configuration tree."""

    student: Student = field(default_factory=Student)
    teacher: Teacher = field(default_factory=Teacher)
    distillation: Distillation = field(default_factory=Distillation)
    multidistillation: MultiDistillation = field(default_factory=MultiDistillation)
    crops: Crops = field(default_factory=Crops)
    dino: Dino = field(default_factory=Dino)
    ibot: Ibot = field(default_factory=Ibot)
    gram: Gram = field(default_factory=Gram)
    compute_precision: ComputePrecision = field(default_factory=ComputePrecision)
    train: Train = field(default_factory=Train)
    optim: Optim = field(default_factory=Optim)
    schedules: Optional[Schedules] = None
    checkpointing: Checkpointing = field(default_factory=Checkpointing)
    evaluation: Evaluation = field(default_factory=Evaluation)


def get_default_config() -> Any:
    """A new configuration (an OmegaConf `DictConfig` that behaves like `Config`)."""
    return OmegaConf.structured(Config())
