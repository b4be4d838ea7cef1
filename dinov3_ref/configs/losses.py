"""Configuration of losses and teachers.

Source: docs/spec.md 4.1, rows "dino" to "distillation".
"""
# ruff: noqa: UP045  (OmegaConf evaluates these annotations, on 3.10 too)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from omegaconf import MISSING


@dataclass
class Ramp:
    """Schedule v2: linear from `start` to `peak`, cosine to `end`, then constant (docs/spec.md 4.9).

    cosine_epochs: length of the cosine; None means all epochs after the warm-up.
    """

    start: float = MISSING
    peak: float = MISSING
    end: float = MISSING
    warmup_epochs: int = 0
    cosine_epochs: Optional[int] = None


@dataclass
class Head:
    """Sizes of a `DINOHead` (docs/spec.md 2.12)."""

    head_n_prototypes: int = 65536
    head_bottleneck_dim: int = 256
    head_nlayers: int = 3
    head_hidden_dim: int = 2048


@dataclass
class Dino(Head):
    """DINO and KoLeo losses on CLS tokens (docs/spec.md 4.4, 4.6)."""

    loss_weight: float = 1.0
    global_ignore_diagonal: bool = True
    koleo_loss_weight: float = 0.1  # multiplied by the two global crops (docs/spec.md 0, fact 12)
    koleo_loss_distributed: bool = False
    koleo_topk: int = 1
    koleo_distributed_loss_group_size: Optional[int] = None
    reweight_dino_local_loss: bool = False
    local_loss_weight_schedule: Ramp = field(default_factory=lambda: Ramp(0.5, 0.5, 0.5))


@dataclass
class Ibot(Head):
    """iBOT loss on masked patches, and the masks (docs/spec.md 4.5, 4.13)."""

    loss_weight: float = 1.0
    mask_sample_probability: float = 0.5
    mask_ratio_min_max: list[float] = field(default_factory=lambda: [0.1, 0.5])
    mask_random_circular_shift: bool = False


@dataclass
class Gram:
    """Gram anchoring (docs/spec.md 4.7). Keys with `it_` are iterations; -1 means never."""

    use_loss: bool = False
    compute_stats: bool = False
    loss_weight: float = 1.0
    loss_weight_schedule: Optional[Ramp] = None
    ema_teacher: bool = False
    ckpt: Optional[str] = None
    it_load_ema_teacher: int = -1
    rep_update: bool = True
    update_frequency: int = 50000
    it_first_update: int = 0
    max_updates: Optional[int] = None
    normalized: bool = True
    img_level: bool = False
    remove_neg: bool = False
    remove_only_teacher_neg: bool = False
    tokens_used: str = "all"  # all | masked | unmasked
    global_teacher_resize_method: str = "bicubic"
    global_teacher_resize_antialias: bool = False


@dataclass
class Teacher:
    """The EMA teacher's momentum and temperature (docs/spec.md 4.9, v1)."""

    momentum_teacher: float = 0.992
    final_momentum_teacher: float = 1.0
    warmup_teacher_temp: float = 0.04
    teacher_temp: float = 0.07
    warmup_teacher_temp_epochs: int = 30


@dataclass
class Distillation:
    """A frozen teacher: its configuration file, and its teacher.pth or "ignore" for random weights."""

    enabled: bool = False
    full_cfg_path: str = ""
    checkpoint_path: str = ""
