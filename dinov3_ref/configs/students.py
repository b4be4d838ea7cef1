"""Configuration of several students of one frozen teacher in one run (docs/spec.md 4.17).

    multidistillation:
      enabled: true
      students:
        - {name: small, student: {arch: vit_small}}
        - {name: base, student: {arch: vit_base}, optim: {lr: 1.0e-4}}

A student's configuration is the run's with its own `student` and `optim` keys merged in. Data, crops, masks
and targets are common to all students.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf

from dinov3_ref.errors import ConfigError

FOLDER = "students"  # below train.output_dir, one folder per student
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHARED = {"student": ("patch_size", "in_chans"), "optim": ("epochs",)}  # must be equal for all students


@dataclass
class StudentEntry:
    """One student: the name of its folder, and its own keys of `student` and `optim`."""

    name: str = MISSING
    student: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)


@dataclass
class MultiDistillation:
    """Students that train together, with the teacher of `distillation`."""

    enabled: bool = False
    students: list[StudentEntry] = field(default_factory=list)


def check_students(config: Any) -> None:
    """Raise `ConfigError` for students that cannot train together."""
    rules = config.multidistillation
    if not rules.enabled:
        return
    if not config.distillation.enabled:
        raise ConfigError(
            "multidistillation.enabled needs distillation.enabled=true: the students share its teacher"
        )
    names = [entry.name for entry in rules.students]
    wrong = [n for n in names if not NAME.fullmatch(n)]
    if not names or wrong or len(set(names)) < len(names):
        raise ConfigError(
            f"multidistillation.students are named {names}; wanted at least one, each with a unique name "
            "of letters, digits, '.', '_' and '-' (it names a folder)"
        )
    for entry in rules.students:
        for group, keys in SHARED.items():
            if chosen := [key for key in keys if key in entry[group]]:
                raise ConfigError(
                    f"multidistillation.students: {entry.name} sets {group}.{chosen[0]}, which must be equal "
                    f"for all students; set {group}.{chosen[0]} of the run"
                )


def student_config(config: Any, entry: Any) -> Any:
    """The configuration of one student, not yet checked. Raises OmegaConf's errors."""
    own = {
        "student": entry.student,
        "optim": entry.optim,
        "train": {"output_dir": f"{config.train.output_dir}/{FOLDER}/{entry.name}"},
        "multidistillation": {"enabled": False, "students": []},
    }
    return OmegaConf.merge(config, OmegaConf.create(own))
