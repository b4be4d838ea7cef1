"""Several students of one frozen teacher in one run: who they are, and the configuration of each.

Source: docs/spec.md 4.17.

    multidistillation:
      enabled: true
      students:
        - {name: small, student: {arch: vit_small}}
        - {name: base, student: {arch: vit_base}, optim: {lr: 1.0e-4}}

A student's configuration is the run's own with its two groups laid over; a run with it alone is the same
training. What the students see together (data, crops, masks, targets) is said once, by the run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf

from dinov3_ref.errors import ConfigError

FOLDER = "students"  # below train.output_dir, with a folder for each
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHARED = {"student": ("patch_size", "in_chans"), "optim": ("epochs",)}  # not a student's to choose


@dataclass
class StudentEntry:
    """A student: the name of its folder, and keys of `student` and `optim` that are its own."""

    name: str = MISSING
    student: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)


@dataclass
class MultiDistillation:
    """Students that train together; the teacher is that of `distillation`."""

    enabled: bool = False
    students: list[StudentEntry] = field(default_factory=list)


def check_students(config: Any) -> None:
    """Raises `ConfigError` for students that cannot train together."""
    rules = config.multidistillation
    if not rules.enabled:
        return
    if not config.distillation.enabled:
        raise ConfigError("multidistillation.enabled wants distillation.enabled=true: they have one teacher")
    names = [entry.name for entry in rules.students]
    wrong = [n for n in names if not NAME.fullmatch(n)]
    if not names or wrong or len(set(names)) < len(names):
        raise ConfigError(
            f"multidistillation.students are named {names}; wanted at least one, each with a name of its own "
            "out of letters, digits, '.', '_' and '-': a folder is called so"
        )
    for entry in rules.students:
        for group, keys in SHARED.items():
            if chosen := [key for key in keys if key in entry[group]]:
                raise ConfigError(
                    f"multidistillation.students: {entry.name} has its own {group}.{chosen[0]}, which "
                    f"students share; set {group}.{chosen[0]} once"
                )


def lay_over(config: Any, entry: Any) -> Any:
    """The configuration of one student's run, not yet checked. Raises OmegaConf's errors."""
    own = {
        "student": entry.student,
        "optim": entry.optim,
        "train": {"output_dir": f"{config.train.output_dir}/{FOLDER}/{entry.name}"},
        "multidistillation": {"enabled": False, "students": []},
    }
    return OmegaConf.merge(config, OmegaConf.create(own))
